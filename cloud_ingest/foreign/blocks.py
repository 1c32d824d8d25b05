"""Readings of a message -> blocks for `store.batch`, within the time bounds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from cloud_ingest.foreign.interpretation import Interpretation, Interpreter, Problem, Reading
from cloud_ingest.message import Message
from cloud_ingest.store.batch import Block
from cloud_ingest.store.publishers import stream_of
from cloud_ingest.store.rejected import Rejection
from telemetry_contract.errors import PayloadTooLarge

_SHOWN_CHARACTERS: Final = 300

Decoded: TypeAlias = list[Block | Rejection]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is accepted: bytes of a message, and how far its times may lie from now."""

    max_message_bytes: int
    max_future_ms: int
    max_age_ms: int


def decode_foreign(message: Message, interpreter: Interpreter, bounds: Bounds, now_ms: int) -> Decoded:
    """The blocks of a message; where something of it can't be used, also one rejection that says what.

    Readings without a time of their own are of `message.received_ms`. Where that is not known, they can't be used.
    """
    if len(message.payload) > bounds.max_message_bytes:
        detail = f"payload has {len(message.payload)} bytes, more than {bounds.max_message_bytes}"
        return [Rejection(message, PayloadTooLarge.reason, detail)]
    found = interpreter.interpret(message, message.payload, now_ms)
    timeless = sum(reading.time_ms is None for reading in found.readings)
    if timeless and (message.retained or message.received_ms is None):
        found.readings = [reading for reading in found.readings if reading.time_ms is not None]
        # What the broker kept is an old value of unknown age, left out: to take it for one of now would be a lie
        if not message.retained:
            detail = f"{timeless} readings have no time of their own, and when the message came was not noted"
            found.problems.append(Problem("time_unknown", detail))
    return decoded(message, found, bounds, now_ms)


def decoded(message: Message, found: Interpretation, bounds: Bounds, now_ms: int) -> Decoded:
    """What was found in a message, for the store."""
    timely, problems = within(found.readings, bounds, now_ms)
    content: Decoded = list(blocks(message, timely, now_ms if message.received_ms is None else message.received_ms))
    problems = [*found.problems, *problems]
    if problems:
        detail = "; ".join(problem.detail for problem in problems)
        content.append(Rejection(message, problems[0].reason, detail[:_SHOWN_CHARACTERS]))
    return content


def blocks(message: Message, readings: Iterable[Reading], received_ms: int) -> list[Block]:
    """The readings as blocks, in their order, those with the same device and keys together."""
    groups: dict[tuple[str, str, str, tuple[str, ...]], list[Reading]] = {}
    for reading in readings:
        groups.setdefault((reading.publisher, reading.site, reading.device, reading.keys), []).append(reading)
    return [
        Block(
            message=message,
            site=site,
            device=device,
            stream=stream_of(device),
            low=1,
            keys=keys,
            seqs=[0] * len(group),
            times_ms=np.array([received_ms if it.time_ms is None else it.time_ms for it in group], np.int64),
            samples=_finite(np.array([it.values for it in group], np.float64)),
            publisher=publisher,
        )
        for (publisher, site, device, keys), group in groups.items()
    ]


def _finite(
    samples: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Infinities, like NaN, are no values; every NaN is the same."""
    return np.where(np.isfinite(samples), samples, np.nan)


def within(readings: list[Reading], bounds: Bounds, now_ms: int) -> tuple[list[Reading], list[Problem]]:
    """The readings whose time is near enough to now, and what is wrong with the others."""
    earliest, latest = now_ms - bounds.max_age_ms, now_ms + bounds.max_future_ms
    outside = [it for it in readings if it.time_ms is not None and not earliest <= it.time_ms <= latest]
    if not outside:
        return readings, []
    first = outside[0].time_ms or 0
    reason = "too_old" if first < earliest else "in_the_future"
    detail = (
        f"{len(outside)} of {len(readings)} readings lie more than {bounds.max_age_ms // 1000} s before or "
        f"{bounds.max_future_ms // 1000} s after the time of receipt, the first at {first} ms"
    )
    kept = [it for it in readings if it.time_ms is None or earliest <= it.time_ms <= latest]
    return kept, [Problem(reason, detail)]
