"""Back-off between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter: a uniform draw from zero to ``min(cap, base * 2**n)``.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base: timedelta = timedelta(seconds=5)
    cap: timedelta = timedelta(minutes=5)

    def ceiling(self, failures: int) -> timedelta:
        """The longest delay after ``failures`` failures (1 is the first)."""
        doubled: timedelta = self.base * 2 ** min(max(failures - 1, 0), 32)
        return min(self.cap, doubled)

    def delay(self, failures: int, rng: random.Random) -> timedelta:
        """A delay after ``failures`` failures, drawn from ``rng``."""
        return timedelta(seconds=self.ceiling(failures).total_seconds() * rng.random())
