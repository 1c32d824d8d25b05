"""Migrations on real servers: complete, repeatable, safe side by side, and honest about what does not fit."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from harness.postgres import Server

from cloud_ingest.errors import SchemaMissing, SchemaTooOld, StoreError, StoreUnavailable
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate, migrations, require_current
from cloud_ingest.store.partitions import ServerKind, available_kind


def test_all_migrations_are_applied_once(database_url: str, database_server: Server) -> None:
    assert len(migrate(database_url)) == len(migrations(ServerKind(database_server.kind)))
    assert migrate(database_url) == []
    with connect(database_url, "test") as connection:
        require_current(connection)


def test_the_server_is_asked_what_it_is(database_url: str, database_server: Server) -> None:
    with connect(database_url, "test") as connection:
        assert available_kind(connection) == database_server.kind
    migrate(database_url)
    with psycopg.connect(database_url) as plain:
        row = plain.execute("select relkind::text from pg_class where oid = 'telemetry.reading'::regclass").fetchone()
    assert row == ("r" if database_server.kind == "timescaledb" else "p",)


def test_processes_that_migrate_at_once_apply_each_migration_once(database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: migrate(database_url), range(4)))
    assert sorted(map(len, applied))[:3] == [0, 0, 0]
    assert len(max(applied, key=len)) >= 3


def test_both_kinds_have_the_same_numbers_and_none_twice() -> None:
    numbers = {kind: [migration.version for migration in migrations(kind)] for kind in ServerKind}
    for each in numbers.values():
        assert each == list(range(1, len(each) + 1))
    assert len({len(each) for each in numbers.values()}) == 1


def test_database_that_was_never_migrated_is_told_apart_from_one_that_is_behind(database_url: str) -> None:
    with connect(database_url, "test") as connection:
        with pytest.raises(SchemaMissing, match="cloud-ingest migrate"):
            require_current(connection)
        migrate(database_url)
        connection.execute("delete from telemetry.schema_migration where version = 3")
        with pytest.raises(SchemaTooOld, match="1 migrations are missing"):
            require_current(connection)


def test_database_of_a_newer_version_is_left_alone(database_url: str) -> None:
    migrate(database_url)
    with connect(database_url, "test") as connection:
        connection.execute(
            "insert into telemetry.schema_migration (version, name, kind, digest)"
            " select 9999, 'future', kind, 'x' from telemetry.schema_migration limit 1"
        )
        with pytest.raises(StoreError, match="9999"):
            require_current(connection)
    with pytest.raises(StoreError, match="upgrade first"):
        migrate(database_url)


def test_released_migration_that_changed_is_noticed(database_url: str) -> None:
    migrate(database_url)
    with connect(database_url, "test") as connection:
        connection.execute("update telemetry.schema_migration set digest = 'other' where version = 2")
    with pytest.raises(StoreError, match="0002_reading was applied with another content"):
        migrate(database_url)


def test_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        migrate("postgresql://nobody@127.0.0.1:1/none")
