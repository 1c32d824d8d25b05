"""Memory and swap."""

from typing import Any

import psutil


class Memory:
    """`system` is psutil, or what answers like it."""

    def __init__(self, *, system: Any = psutil) -> None:
        self._system = system

    def collect(self) -> dict[str, float | None]:
        """All of it; usage of a swap that does not exist is no value."""
        memory, swap = self._system.virtual_memory(), self._system.swap_memory()
        found: dict[str, float | None] = {
            "memory_total_bytes": memory.total,
            "memory_available_bytes": memory.available,
            "memory_used_bytes": memory.total - memory.available,
            "memory_usage_percent": 100 * (memory.total - memory.available) / memory.total,
            "swap_total_bytes": swap.total,
            "swap_used_bytes": swap.used,
            "swap_usage_percent": 100 * swap.used / swap.total if swap.total else None,
            "swap_in_bytes_total": swap.sin,
            "swap_out_bytes_total": swap.sout,
        }
        for part in ("buffers", "cached"):  # Linux tells these
            if hasattr(memory, part):
                found[f"memory_{part}_bytes"] = getattr(memory, part)
        return found
