"""When something that failed is tried again."""

import random
from collections.abc import Callable
from typing import Final

_FIRST_SECONDS: Final = 2.0
_LONGEST_SECONDS: Final = 600.0


def delay_seconds(
    failures: int, retry_after_seconds: float | None = None, jitter: Callable[[float, float], float] = random.uniform
) -> float:
    """After so many failures in a row, at least one: longer each time, and never before the receiver said.

    Half of it is chance, so that those who failed together don't all come back together.
    """
    limit = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(failures - 1, 16))
    return max(jitter(limit / 2, limit), retry_after_seconds or 0.0)
