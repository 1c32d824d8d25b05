"""Something that happens before a certain statement of a connection: a death, a rival, a message."""

from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from cloud_ingest.store.database import Connection


class Fuse:
    """Counts the statements of a connection from now on, and before some of them does what was asked for."""

    def __init__(self, connection: Connection, actions: Mapping[int, Callable[[], object]]) -> None:
        self.statements = 0
        self._actions = actions
        burn = self._burn

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, *args: Any, **kwargs: Any) -> Any:
                burn()
                return super().execute(*args, **kwargs)

            def copy(self, *args: Any, **kwargs: Any) -> Any:
                burn()
                return super().copy(*args, **kwargs)

        connection.cursor_factory = Cursor

    def _burn(self) -> None:
        self.statements += 1
        self._actions.get(self.statements, bool)()


def waits_for_a_lock(connection: Connection, application_name: str) -> bool:
    """Whether a connection of that name to this database does."""
    return connection.execute(
        "select count(*) > 0 from pg_stat_activity where application_name = %s and wait_event_type = 'Lock'"
        " and datname = current_database()",
        [application_name],
    ).fetchone() == (True,)
