"""Dead letters for pages: asked for in the background at most every half minute, since each look costs a queue call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from app.dead_letters import DeadLetters
from core.errors import GeoworkerError

_SHOWN = 200
_FRESH_SECONDS = 30.0


class Letters:
    """The dead letters with what was last known of their number."""

    def __init__(self, desk: DeadLetters) -> None:
        self.desk = desk
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._counts: Mapping[str, int] = {}

    def list(self) -> Sequence[Mapping[str, Any]]:
        """The letters of every queue, now.

        Raises:
            TransportUnavailable: when the queues cannot be reached.
        """
        found = self.desk.list_letters(limit=_SHOWN)
        self._note(found)
        return found

    def counts(self) -> Mapping[str, int]:
        """How many letters each queue had when it was last asked; asks again when that is half a minute ago."""
        with self._lock:
            due = time.monotonic() - self._asked_at > _FRESH_SECONDS
            if due:
                self._asked_at = time.monotonic()
        if due:
            threading.Thread(target=self._ask, name="dead-letter count", daemon=True).start()
        return self._counts

    def _ask(self) -> None:
        try:
            self._note(self.desk.list_letters(limit=_SHOWN))
        except GeoworkerError:
            self._counts = {}  # health says that the transport cannot be reached

    def _note(self, found: Sequence[Mapping[str, Any]]) -> None:
        counted = Counter(letter["queue"] for letter in found)
        self._counts = {queue: counted[queue] for queue in self.desk.queues}
