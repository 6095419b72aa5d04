"""The broker's clock: real time, which a test may move forward."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """Seconds since 1970 as ``source`` tells them, plus what :meth:`advance` has added."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._offset = 0.0

    def now(self) -> float:
        return self._source() + self._offset

    def real(self) -> float:
        """The time outside, which tokens are signed by."""
        return self._source()

    def advance(self, by: timedelta) -> None:
        """Raises ValueError when ``by`` points back."""
        if by < timedelta(0):
            raise ValueError(f"the clock only goes forward: {by}")
        self._offset += by.total_seconds()


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
