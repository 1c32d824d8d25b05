"""Connections to the database, and what its failures mean to a caller."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import errors as pg

from cloud_ingest.errors import DataRejected, SchemaTooOld, StoreError, StoreUnavailable

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# A commit ack promises durability, so commits wait for the disk whatever the server's default is; times are UTC;
# a peer that vanished is noticed within a minute.
_SETTINGS = "-c synchronous_commit=on -c TimeZone=UTC -c client_encoding=UTF8 -c jit=off"
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}

# The row itself is at fault: the same row will fail again, a neighbour will not.
_DATA_ERRORS = (pg.DataError, pg.IntegrityError, pg.ProgramLimitExceeded)
_SCHEMA_ERRORS = (pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName, pg.UndefinedFunction)


def parameters(application_name: str) -> dict[str, Any]:
    """Keyword arguments that every connection of ours is opened with, beside its URL."""
    return {"application_name": application_name, "options": _SETTINGS, "connect_timeout": 5, **_KEEPALIVE}


def connect(url: str, application_name: str) -> Connection:
    """A connection in autocommit mode: transactions are opened where they are meant.

    Raises StoreUnavailable.
    """
    with translated():
        return psycopg.connect(url, autocommit=True, **parameters(application_name))


def server_time_ms(connection: Connection) -> int:
    """The time by the server's clock.

    Raises StoreUnavailable.
    """
    with translated():
        ((time_ms,),) = connection.execute("select (extract(epoch from clock_timestamp()) * 1000)::bigint").fetchall()
    return int(time_ms)


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors into ours.

    DataRejected, SchemaTooOld, StoreError for what no retry will mend (a missing privilege, say), and
    StoreUnavailable for all that may pass.
    """
    try:
        yield
    except _DATA_ERRORS as exc:
        if isinstance(exc, pg.CheckViolation) and exc.diag.constraint_name is None:
            # Not the row's fault: its partition was dropped since the caller looked. Looking again makes it anew.
            raise StoreUnavailable(_first_line(exc)) from exc
        raise DataRejected(_first_line(exc)) from exc
    except _SCHEMA_ERRORS as exc:
        raise SchemaTooOld(f"{_first_line(exc)}; run `cloud-ingest migrate`") from exc
    except psycopg.ProgrammingError as exc:
        raise StoreError(_first_line(exc)) from exc
    except psycopg.Error as exc:
        raise StoreUnavailable(_first_line(exc)) from exc


def _first_line(exc: BaseException) -> str:
    text = str(exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
