"""Sequence numbers as inclusive ranges, and the two texts that PostgreSQL and the wire make of them."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]

# PostgreSQL writes a discrete range in canonical form: lower bound included, upper bound not.
_CANONICAL = re.compile(r"\[(\d+),(\d+)\)")


def runs(sequence_numbers: Iterable[int]) -> list[Range]:
    """The numbers, in any order and repeated or not, as the fewest ascending inclusive ranges."""
    ordered = sorted(sequence_numbers)
    if not ordered:
        return []
    result: list[Range] = []
    first = last = ordered[0]
    for number in ordered:
        if number > last + 1:
            result.append((first, last))
            first = number
        last = number
    result.append((first, last))
    return result


def runs_of(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in any order, overlapping or not, as the fewest ascending ones."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def minus(ranges: Iterable[Range], others: Sequence[Range]) -> list[Range]:
    """What of the ranges is in none of the others; both ascending and disjoint."""
    result: list[Range] = []
    position = 0
    for first, last in ranges:
        start = first
        while position < len(others) and others[position][1] < start:
            position += 1
        at = position
        while at < len(others) and others[at][0] <= last:
            if others[at][0] > start:
                result.append((start, others[at][0] - 1))
            start = others[at][1] + 1
            at += 1
        if start <= last:
            result.append((start, last))
    return result


def count(ranges: Iterable[Range]) -> int:
    """How many numbers disjoint ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def contains(ranges: Sequence[Range], number: int) -> bool:
    """Whether one of a few ranges holds the number."""
    return any(first <= number <= last for first, last in ranges)


def to_multirange(ranges: Iterable[Range]) -> str:
    """The text of an int8multirange."""
    return "{" + ",".join(f"[{first},{last}]" for first, last in ranges) + "}"


def from_multirange(text: str) -> list[Range]:
    """The ranges of an int8multirange in PostgreSQL's canonical text."""
    return [(int(lower), int(upper) - 1) for lower, upper in _CANONICAL.findall(text)]
