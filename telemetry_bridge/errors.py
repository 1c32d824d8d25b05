"""What can keep the local system from running, as one tree, named by who has to act.

BridgeError
 +- CannotStart     exit code 2: the person who typed the command must choose another option or free something
 +- PartFailed      exit code 1: a part ended by itself or never became ready; the message ends with its log
     +- PartMisconfigured   exit code 2: it ended because its configuration can't be used

`str()` of each is a whole message for a person, without a traceback.
"""


class BridgeError(Exception):
    """The local system can't run, or can't go on."""

    exit_code = 1


class CannotStart(BridgeError):
    """Nothing was started: an option or this machine has to change first."""

    exit_code = 2


class PartFailed(BridgeError):
    """A part that was started is of no use; everything else is stopped."""


class PartMisconfigured(PartFailed):
    """A part refused its configuration: the user's settings for it have to change first."""

    exit_code = 2
