"""What containers are called, asked rarely: engines are slow beside the kernel, and may hang."""

import time
from collections.abc import Callable, Iterable, Mapping

from edge_agent.collectors.containers.description import Description
from edge_agent.worker import Worker

PATIENCE_SECONDS = 0.25
# So long it stands that nobody names a container: the right to ask may be given later.
_ASK_AGAIN_SECONDS = 60.0
# A container may be seen before it has a name (Kubernetes links its log only once it runs): it waits for a second look.
_LOOKS_UNTIL_NAMELESS = 2


class Names:
    """Knows the containers that it was told of, and asks again when it is shown another.

    `ask` tells what has a name, by container id. It runs in a thread of its own, as it may hang; a look waits for it
    no longer than `patience_seconds`.
    """

    def __init__(
        self,
        ask: Callable[[], Mapping[str, Description]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._worker = Worker(ask, name="container names")
        self._is_asking = False
        self._asked_at: float | None = None
        self._known: dict[str, Description] = {}
        self._looks: dict[str, int] = {}  # at containers without a name, by id

    def of(self, ids: Iterable[str]) -> dict[str, Description | None]:
        """The description of each container, None where it has none; one that may yet get its first is left out."""
        present = set(ids)
        is_first = self._asked_at is None
        self._known = {it: description for it, description in self._known.items() if it in present}
        self._looks = {it: self._looks.get(it, 0) + 1 for it in present - self._known.keys()}
        patience = 0.0
        if self._looks and not self._is_asking and self._is_time():
            patience = self._patience_seconds
            self._is_asking = self._worker.begin()
            self._asked_at = self._monotonic()
        if self._is_asking:
            self._take_answer(patience, present)
        looks_needed = 1 if is_first and not self._is_asking else _LOOKS_UNTIL_NAMELESS
        nameless = {it for it, looks in self._looks.items() if looks >= looks_needed and it not in self._known}
        return {**self._known, **dict.fromkeys(nameless)}

    def close(self) -> None:
        """Stop asking."""
        self._worker.close()

    def _is_time(self) -> bool:
        if self._asked_at is None or min(self._looks.values()) <= _LOOKS_UNTIL_NAMELESS:
            return True
        return self._monotonic() - self._asked_at >= _ASK_AGAIN_SECONDS

    def _take_answer(self, patience_seconds: float, present: set[str]) -> None:
        """Remember the answer if it is there by then; one that is later is taken at a later look."""
        outcome = self._worker.outcome(patience_seconds)
        if outcome is None:
            return
        self._is_asking = False
        if outcome.value is None:
            raise outcome.error or AssertionError("an answer has a value or an error")
        self._known |= {it: description for it, description in outcome.value.items() if it in present}
