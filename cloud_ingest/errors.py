"""What can go wrong in the cloud, as one tree, named by what the caller should do.

CloudError
 +- ConfigError            stop, exit code 2: a person must change the configuration
 +- StoreError
     +- Conflict               refuse: what is asked contradicts what is stored; a person must ask for something else
         +- Outdated               it was changed meanwhile: look at it again
     +- StoreUnavailable       retry: the database is away, busy, or ended the connection
     +- DataRejected           reject: the database refused this data and would again; bisect the batch to find it
         +- PartRefused            a part of what was to be stored whole can't be; nothing was
     +- MessageGone            skip: the rejected message has been replayed or deleted meanwhile
     +- SchemaNotReady         stop: run `cloud-ingest migrate`
         +- SchemaMissing          the database has no schema of ours
         +- SchemaTooOld           migrations of this version have not been applied

Everything in the tree has a cause outside the program: `str()` of it is a message for a person, without a traceback
and without secrets, and `exit_code` is what a program that can't go on ends with.
"""


class CloudError(Exception):
    """Something outside the program is not as it must be."""

    exit_code = 1


class ConfigError(CloudError):
    """The configuration can't be used. The message holds one line for each problem."""

    exit_code = 2


class StoreError(CloudError):
    """The database did not do what it was asked."""


class Conflict(StoreError):
    """What is asked contradicts what is stored."""


class Outdated(Conflict):
    """What is to be changed is not any more what the caller saw."""


class StoreUnavailable(StoreError):
    """The database can't be reached or can't serve now; nothing was committed, so the same again may succeed."""


class DataRejected(StoreError):
    """The database refused the data itself; the same again would fail again."""


class PartRefused(DataRejected):
    """What was to be stored whole or not at all was not, because of a part. The text says which and why."""


class MessageGone(StoreError):
    """There is no such rejected message any more; nothing was done."""


class SchemaNotReady(StoreError):
    """The database does not have the schema that this version needs."""


class SchemaMissing(SchemaNotReady):
    """The database has never been migrated."""


class SchemaTooOld(SchemaNotReady):
    """The database lacks migrations of this version."""
