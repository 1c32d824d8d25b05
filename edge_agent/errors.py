"""What can go wrong on the edge, as one tree, named by what the caller does about it.

EdgeAgentError
 +- ConfigError      stop, exit code 2: a person must change the configuration
 +- CollectorError   go on without it: one collector has no values for this tick
 +- InstallError     stop: the service can't be installed like this; the message says what would do
 +- OutboxError      go on from memory and retry: the outbox file can't be read or written at present
     +- DiskRefuses     go on with an outbox in memory: the disk is full, read-only or broken
     +- OutboxCorrupt   set the file aside and go on with a new one

Everything in the tree has a cause outside the program: `str()` of it is a message for a person, without a traceback
and without secrets, and `exit_code` is what a program that can't go on ends with.
"""


class EdgeAgentError(Exception):
    """Something on this device is not as the agent needs it."""

    exit_code = 1


class ConfigError(EdgeAgentError):
    """The configuration can't be used. The message holds one line for each problem."""

    exit_code = 2


class CollectorError(EdgeAgentError):
    """A collector could not measure; the message says what it tried and why that failed."""


class InstallError(EdgeAgentError):
    """The service can't be put in place; the message says why and what to do."""


class OutboxError(EdgeAgentError):
    """The outbox file can't be read or written at present; nothing that it had committed is gone."""


class DiskRefuses(OutboxError):
    """The disk is full, read-only or broken at present."""


class OutboxCorrupt(OutboxError):
    """The outbox file is damaged: it is not a database, or its content contradicts itself."""
