"""Log lines on standard error: for people as text, for machines as one JSON object a line.

What a call gives as `extra` becomes fields of its own, in both.
"""

import json
import logging
import sys
import time
from typing import Any, Final

from edge_agent.config import Logging

_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(config: Logging) -> None:
    """Send all logging of this process to standard error; libraries speak only when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if config.format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_agent").setLevel(config.level)


class TextLines(logging.Formatter):
    """`TIME LEVEL message name=value ...`, and a traceback below where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for the message, whatever it holds: a program's output must not pass for a line of ours."""
        message = record.getMessage().replace("\n", r"\n").replace("\r", r"\r")
        fields = "".join(f" {name}={value!r}" for name, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname:<7} {message}{fields}"
        traceback = _traceback(self, record)
        return line if traceback is None else f"{line}\n{traceback}"


class JsonLines(logging.Formatter):
    """An object with `time`, `level`, `logger`, `message`, the record's own fields, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, always JSON."""
        content: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if (traceback := _traceback(self, record)) is not None:
            content["exception"] = traceback
        return json.dumps(content, default=str)  # in ASCII, as file names hold what UTF-8 does not


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if record.exc_info is None or record.exc_info[0] is None:
        return None
    return formatter.formatException(record.exc_info)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
