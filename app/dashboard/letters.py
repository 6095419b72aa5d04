"""Dead letters for pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from app.dashboard.asked import Asked
from app.dead_letters import DeadLetters

_SHOWN = 200


class Letters:
    """The dead letters, with what was last known of their number."""

    def __init__(self, desk: DeadLetters) -> None:
        self.desk = desk
        self._counts = Asked("dead-letter count", lambda: self._counted(desk.list_letters(limit=_SHOWN)))

    def list(self) -> Sequence[Mapping[str, Any]]:
        """The letters of every queue, now.

        Raises:
            TransportUnavailable: when the queues cannot be reached.
        """
        found = self.desk.list_letters(limit=_SHOWN)
        self._counts.note(self._counted(found))
        return found

    def counts(self) -> Mapping[str, int]:
        """How many letters each queue had when it was last asked; empty when that is not known."""
        return self._counts.latest().value or {}

    def _counted(self, found: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
        counted = Counter(letter["queue"] for letter in found)
        return {queue: counted[queue] for queue in self.desk.queues}
