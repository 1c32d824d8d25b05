"""What an outbox holds, as lines for a person."""

from collections.abc import Iterator

from edge_agent.outbox_export import as_time
from edge_agent.outbox_view import Contents


def as_table(contents: Contents) -> Iterator[str]:
    """A line for each fact, its name first."""
    lost = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in contents.lost)
    facts = {
        "outbox": contents.path,
        "in use": "by an agent; what that has in memory only is not counted" if contents.in_use else "no",
        "stream": str(contents.stream),
        "depth": f"{contents.depth} ticks, {contents.bytes} bytes",
        "numbers": f"{'-' if contents.low is None else contents.low} is the lowest held, {contents.next_seq} the next",
        "waiting": f"{contents.waiting} readings until it is known when they were taken",
        "oldest": "-" if contents.oldest_time is None else as_time(contents.oldest_time),
        "newest": "-" if contents.newest_time is None else as_time(contents.newest_time),
        "thinned": str(contents.thinned),
        "dropped": str(contents.dropped),
        "lost": f"{lost} (with the memory of an agent that was killed)" if lost else "-",
    }
    width = max(map(len, facts))
    for name, fact in facts.items():
        yield f"{name:<{width}}  {fact}"
