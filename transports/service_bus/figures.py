"""What a source has done, for health and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from transports.base import SourceStatus


@dataclass(slots=True)
class Figures:
    """Counts and states of one source. Each field is written by one thread."""

    connected: bool = False
    last_poll_at: datetime | None = None
    received: int = 0
    completed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    redelivered: int = 0
    connects: int = 0
    settlements_lost: int = 0
    renewals: int = 0
    renewals_failed: int = 0
    locks_lost: int = 0
    last_error: str | None = None

    def status(self, queue: str) -> SourceStatus:
        """As /health shows it."""
        return SourceStatus(
            connected=self.connected,
            last_poll_at=self.last_poll_at,
            received=self.received,
            completed=self.completed,
            retried=self.retried,
            dead_lettered=self.dead_lettered,
            last_error=self.last_error,
            details={
                "queue": queue,
                "redelivered": self.redelivered,
                "lock_renewals": self.renewals,
                "lock_renewals_failed": self.renewals_failed,
                "locks_lost": self.locks_lost + self.settlements_lost,
                "connects": self.connects,
            },
        )
