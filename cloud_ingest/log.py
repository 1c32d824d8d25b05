"""Log lines on standard error: for people as text, for machines as one JSON object a line.

What a call gives as `extra` becomes fields of its own, in both.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from cloud_ingest.config import Logging

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure(logging_: Logging, role: str) -> None:
    """Sends all logging of this process to standard error, marked with its role.

    Libraries speak only when something is wrong; of the connection pool not even that, since it repeats itself and
    the API logs a change of the database's state once.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role) if logging_.format == "json" else TextLines(role))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cloud_ingest").setLevel(logging_.level)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class TextLines(logging.Formatter):
    """`TIME LEVEL role message name=value ...`."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The line, followed by a traceback where the record has one."""
        message = record.getMessage().replace("\n", r"\n")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {self._role:<7} {message}{fields}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """`{"time":...,"level":...,"role":...,"logger":...,"message":...}` and the record's own fields."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The object; a traceback is its field `exception`."""
        content: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info is not None:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
