import json
import logging
import re

import pytest

from edge_agent.log import JsonLines, TextLines


def record(message: str, *arguments: object, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(
        "edge_agent.x", logging.WARNING, "x.py", 1, message, arguments, (type(error), error, None) if error else None
    )
    made.created, made.msecs = 1_763_678_400.123, 123.0
    vars(made).update(extra)
    return made


def test_text_is_a_line_with_the_time_in_utc_and_the_fields() -> None:
    said = TextLines().format(record("queue of %s is full", "disk", depth=5, topic="a b"))
    assert said == "2025-11-20T22:40:00.123Z WARNING queue of disk is full depth=5 topic='a b'"


def test_what_a_program_prints_can_not_pass_for_a_line_of_ours() -> None:
    said = TextLines().format(record("failed: %s", "x\n2025-11-20T22:40:00.000Z INFO    all is well\r"))
    assert said.splitlines() == [said]


def test_an_exception_stands_below_its_line_and_in_a_field_of_json() -> None:
    failed = record("lost", error=OSError("disk on fire"))
    assert TextLines().format(failed).splitlines()[1:] == ["OSError: disk on fire"]
    assert json.loads(JsonLines().format(failed))["exception"] == "OSError: disk on fire"


def test_no_exception_at_hand_is_no_traceback() -> None:
    plain = record("fine")
    plain.exc_info = (None, None, None)
    assert TextLines().format(plain).endswith("fine")
    assert "exception" not in json.loads(JsonLines().format(plain))


@pytest.mark.parametrize("odd", ["sd\udce9", 'q"\n', object(), {"a": {1, 2}, "b": "\udce9"}, float("nan")], ids=ascii)
def test_json_is_one_line_of_json_whatever_is_logged(odd: object) -> None:
    said = JsonLines().format(record("got %s", odd, what=odd))
    assert "\n" not in said
    decoded = json.loads(said)
    assert decoded.keys() == {"time", "level", "logger", "message", "what"}
    assert re.fullmatch(r"[\d-]+T[\d:.]+Z", decoded["time"])
