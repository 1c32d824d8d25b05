"""What old chunks are moved with: decided from the server's answers, and understood by the server that is here.

The Debian package is of the Apache edition, which reads these statements and then refuses them for its license.
"""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from cloud_ingest.store.columnstore import Wording, wording, wording_of
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import ServerKind, available_kind, partitions_of
from cloud_ingest.store.tiers import TIERS

TABLE = sql.Identifier("telemetry", "reading")


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    migrate(database_url)
    with connect(database_url, "test") as connection:
        yield connection


@pytest.mark.parametrize(
    ("license_name", "has_procedure", "expected"),
    [
        (None, False, None),  # plain PostgreSQL
        ("apache", False, None),
        ("apache", True, None),
        ("timescale", False, Wording.COMPRESSION),
        ("timescale", True, Wording.COLUMNSTORE),
    ],
)
def test_wording_follows_license_and_version(
    license_name: str | None,
    has_procedure: bool,  # noqa: FBT001 - a parameter of the test
    expected: Wording | None,
) -> None:
    assert wording(license_name, has_procedure=has_procedure) == expected


@pytest.mark.parametrize("each", Wording)
def test_server_understands_the_statements(connection: Connection, each: Wording) -> None:
    if available_kind(connection) is not ServerKind.TIMESCALEDB:
        pytest.skip("plain PostgreSQL has no columnstore")
    if wording_of(connection) is not None:
        pytest.skip("of the community edition the statements are run")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="license"):
        connection.execute(each.enabling(TABLE))
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="license"):
        connection.execute(each.moving, {"chunk": "telemetry.reading"})
    # Which it does only once it has read them
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute(sql.SQL("alter table {} set (timescaledb.no_such_setting)").format(TABLE))


def test_old_pieces_of_each_tier_are_moved_where_there_is_a_columnstore(connection: Connection) -> None:
    for tier in TIERS:
        partitions_of(connection, tier).compress_before(connection, 0)


def test_bound_on_changes_is_lifted_for_the_transaction_alone(connection: Connection) -> None:
    bound = "select setting from pg_settings where name = 'timescaledb.max_tuples_decompressed_per_dml_transaction'"
    before = connection.execute(bound).fetchall()
    with connection.transaction():
        partitions_of(connection).allow_changes(connection)
        assert all(setting == "0" for (setting,) in connection.execute(bound))
    assert connection.execute(bound).fetchall() == before
    assert len(before) == (available_kind(connection) is ServerKind.TIMESCALEDB)
