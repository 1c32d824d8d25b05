"""How long things took, in few numbers however many things there were."""

import math
from typing import Final

_PER_DOUBLING: Final = 8
_SMALLEST_SECONDS: Final = 0.000_1


class Latency:
    """A histogram whose bucket bounds grow by 9 %: a quantile is that much too large at most."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0

    def add(self, seconds: float) -> None:
        """Counts one; less than 0.1 ms counts as that."""
        bucket = math.ceil(math.log2(max(seconds, _SMALLEST_SECONDS) / _SMALLEST_SECONDS) * _PER_DOUBLING)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of them was done; None before there is one."""
        wanted = share * self._total
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return float(_SMALLEST_SECONDS * 2 ** (bucket / _PER_DOUBLING))
        return None
