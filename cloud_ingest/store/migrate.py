"""Brings a database to the schema of this version, by the numbered files beside this module.

A file `0002_reading.timescaledb.sql` applies to that kind of server alone (partitions.ServerKind). A file that was
released never changes; the digest of what was applied is kept and compared.
"""

import hashlib
import re
from importlib.resources import files
from typing import Final, NamedTuple

from cloud_ingest.errors import SchemaMissing, SchemaTooOld, StoreError
from cloud_ingest.store.database import Connection, connect, translated
from cloud_ingest.store.partitions import ServerKind, available_kind

_LOCK_KEY: Final = 0x7465_6C65_0000  # advisory lock: one migration at a time
_FILE = re.compile(r"(\d{4})_(\w+)(?:\.(\w+))?\.sql")


class Migration(NamedTuple):
    """One file; `kind` is None where it applies to every server."""

    version: int
    name: str
    kind: ServerKind | None
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations(kind: ServerKind) -> list[Migration]:
    """All migrations for this kind of server, in order."""
    found = []
    for file in (files("cloud_ingest.store") / "migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match is not None and match[3] in (None, kind):
            only = None if match[3] is None else ServerKind(match[3])
            found.append(Migration(int(match[1]), match[2], only, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def migrate(url: str) -> list[str]:
    """Applies what is missing, each migration in a transaction of its own, and names it.

    Safe to run at any time, by several processes at once, and again after it was killed. Raises
    StoreUnavailable, or StoreError where the database was migrated by a newer version or by other files.
    """
    with connect(url, "cloud-ingest-migrate") as connection, translated():
        connection.execute("select pg_advisory_lock(%s)", [_LOCK_KEY])
        connection.execute("create schema if not exists telemetry")
        connection.execute(
            "create table if not exists telemetry.schema_migration ("
            " version integer primary key, name text not null, kind text not null, digest text not null,"
            " applied_at timestamptz not null default now())"
        )
        applied = _applied(connection)
        kind = next((kind for kind, _ in applied.values()), None) or available_kind(connection)
        if kind is ServerKind.TIMESCALEDB:
            connection.execute("create extension if not exists timescaledb")
        wanted = migrations(kind)
        _check(applied, wanted)
        done = []
        for migration in wanted:
            if migration.version in applied:
                continue
            with connection.transaction():
                connection.execute(migration.text.encode())
                connection.execute(
                    "insert into telemetry.schema_migration (version, name, kind, digest) values (%s, %s, %s, %s)",
                    [migration.version, migration.name, kind, migration.digest],
                )
            done.append(f"{migration.version:04}_{migration.name}")
        return done


def require_current(connection: Connection) -> None:
    """Returns where the database has exactly the schema of this version.

    Raises SchemaNotReady where `cloud-ingest migrate` has to run first, StoreError where the database is newer.
    """
    with translated():
        row = connection.execute("select to_regclass('telemetry.schema_migration') is null").fetchone()
        if row is None or row[0]:
            raise SchemaMissing("the database has no telemetry schema; run `cloud-ingest migrate`")
        applied = _applied(connection)
    kind = next((kind for kind, _ in applied.values()), ServerKind.POSTGRESQL)
    wanted = migrations(kind)
    _check(applied, wanted)
    missing = [migration for migration in wanted if migration.version not in applied]
    if missing:
        raise SchemaTooOld(f"{len(missing)} migrations are missing; run `cloud-ingest migrate`")


def _applied(connection: Connection) -> dict[int, tuple[ServerKind, str]]:
    rows = connection.execute("select version, kind, digest from telemetry.schema_migration").fetchall()
    return {version: (ServerKind(kind), digest) for version, kind, digest in rows}


def _check(applied: dict[int, tuple[ServerKind, str]], wanted: list[Migration]) -> None:
    newest = max((migration.version for migration in wanted), default=0)
    newer = [version for version in applied if version > newest]
    if newer:
        raise StoreError(f"the database has migration {max(newer):04}, this version knows {newest:04}: upgrade first")
    for migration in wanted:
        if migration.version in applied and applied[migration.version][1] != migration.digest:
            raise StoreError(f"migration {migration.version:04}_{migration.name} was applied with another content")
