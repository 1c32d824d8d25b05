"""Warnings that something outside could make endless."""

import logging

from edge_agent.budget import Budget

_AT_ONCE = 5
_PER_SECOND = 1 / 60


class LimitedLog:
    """Logs a few warnings at once and then one a minute, which says how many were left out. For one thread."""

    def __init__(self, logger: logging.Logger, about: str, *, budget: Budget | None = None) -> None:
        self._logger = logger
        self._about = about
        self._budget = budget or Budget(_AT_ONCE, _PER_SECOND)
        self._left_out = 0

    def warning(self, text: str) -> None:
        """Log it, or count it as left out."""
        if not self._budget.spend(1):
            self._left_out += 1
            return
        before = f" (after {self._left_out} more that are not logged)" if self._left_out else ""
        self._left_out = 0
        self._logger.warning("%s%s: %s", self._about, before, text)
