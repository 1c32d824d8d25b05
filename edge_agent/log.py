"""Log lines on standard error or in files: for people as text, for machines as one JSON object a line.

What a call gives as `extra` becomes fields of its own, in both. Of lines that repeat each other some are left out, see
`repetition`.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.config import Logging
from edge_agent.errors import ConfigError
from edge_agent.repetition import Repetition

_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(config: Logging) -> None:
    """Send all logging of this process to standard error or to files, as said; libraries speak only when it matters.

    May be called again, with another configuration. Raises ConfigError where the files can't be written, and then
    nothing has changed.
    """
    root = logging.getLogger()
    before = root.handlers
    root.handlers = [Log(_outputs(config))]
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_agent").setLevel(config.level)
    for handler in before:
        if isinstance(handler, Log):
            handler.close()


class Log(logging.Handler):
    """Hands each record to the outputs whose level it has, unless it only repeats what was said."""

    def __init__(self, outputs: Sequence[logging.Handler], repetition: Repetition | None = None) -> None:
        super().__init__()
        self._outputs = outputs
        self._repetition = repetition or Repetition()

    def emit(self, record: logging.LogRecord) -> None:
        """Called one at a time."""
        left_out = self._repetition.left_out_before(record)
        if left_out is None:
            return
        if left_out:
            self._write(_own_record(record, f"{left_out} lines like the next one were left out"))
        self._write(record)

    def flush(self) -> None:
        """All of them."""
        for output in self._outputs:
            output.flush()

    def close(self) -> None:
        """Say how much was left out and not told yet, and close the files."""
        if left_out := self._repetition.left_out():
            last = logging.makeLogRecord({"name": __name__, "levelno": logging.INFO, "levelname": "INFO"})
            self._write(_own_record(last, f"{left_out} lines that repeated others were left out"))
        for output in self._outputs:
            output.close()
        super().close()

    def _write(self, record: logging.LogRecord) -> None:
        for output in self._outputs:
            if record.levelno >= output.level:
                output.handle(record)


def _own_record(like: logging.LogRecord, message: str) -> logging.LogRecord:
    content = {"name": like.name, "levelno": like.levelno, "levelname": like.levelname, "msg": message}
    return logging.makeLogRecord(content)


def _outputs(config: Logging) -> list[logging.Handler]:
    outputs: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.directory is not None:
        outputs = _files(config, config.directory)
    formatter = JsonLines() if config.format == "json" else TextLines()
    for output in outputs:
        output.setFormatter(formatter)
    return outputs


def _files(config: Logging, directory: Path) -> list[logging.Handler]:
    from edge_agent.log_file import LogFile  # noqa: PLC0415 - which costs memory, and few agents log to files

    outputs: list[logging.Handler] = []
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name, level in (("edge.log", logging.NOTSET), ("error.log", logging.WARNING)):
            file = LogFile(directory / name, max_bytes=config.max_file_bytes, files=config.keep_files)
            file.setLevel(level)
            outputs.append(file)
    except OSError as exc:
        for output in outputs:
            output.close()
        raise ConfigError(f"logging.directory {directory}: {exc.strerror or exc}: {exc.filename}") from exc
    return outputs


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
