"""What the server does for the statements of a connection: the plans that it really ran, by its own account."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg

_SETTINGS = " ".join(
    f"-c {setting}"
    for setting in (
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_analyze=on",
        "auto_explain.log_timing=off",
        "auto_explain.log_verbose=on",
        "auto_explain.log_format=json",
        "client_min_messages=log",
    )
)


class Scan(NamedTuple):
    """A table that was read: how, and by which index if any."""

    table: str
    node: str
    by: str | None


class Plans:
    """The tables that statements read since `clear`. Only a superuser can ask for that."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(
            url, options=f"{_SETTINGS} -c TimeZone=UTC -c jit=off", autocommit=True, prepare_threshold=None
        )
        self._told: list[str] = []
        self.connection.add_notice_handler(lambda notice: self._told.append(notice.message_primary or ""))

    def close(self) -> None:
        self.connection.close()

    def clear(self) -> None:
        self._told.clear()

    def scans(self) -> set[Scan]:
        """What was read; parts of a plan that never ran are left out."""
        plans = [json.loads(text[text.index("{") :])["Plan"] for text in self._told if "plan:" in text]
        assert plans, "the server told of no plan"
        return {scan for plan in plans for scan in _scans(plan)}


def _scans(node: dict[str, Any]) -> Iterator[Scan]:
    if node.get("Actual Loops", 1) == 0:
        return
    if "Relation Name" in node:
        index = node.get("Index Name") or next(
            (it["Index Name"] for it in node.get("Plans", []) if "Index Name" in it), None
        )
        yield Scan(f"{node.get('Schema')}.{node['Relation Name']}", node["Node Type"], index)
    for child in node.get("Plans", []):
        yield from _scans(child)
