"""Clocks that tests own."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Real time, which a test may move forward."""

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.now(UTC) + self._offset

    def monotonic(self) -> float:
        """Seconds that never go back, moved forward together with :meth:`now`."""
        return time.monotonic() + self._offset.total_seconds()

    def advance(self, by: timedelta) -> None:
        """Move forward.

        Raises:
            ValueError: when ``by`` points back.
        """
        if by < timedelta(0):
            raise ValueError(f"a clock only goes forward, not by {by}")
        with self._lock:
            self._offset += by


class ManualClock(Clock):
    """Stands still until it is moved: the same run gives the same times."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        super().__init__()
        self._now = start
        self._seconds = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, by: timedelta) -> None:
        super().advance(by)
        with self._lock:
            self._now += by
            self._seconds = self._offset.total_seconds()
