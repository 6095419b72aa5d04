"""Keeps a running task's lease and its delivery's lock alive, from threads that no handler can starve.

Lease and lock have a thread each: a transport that cannot be reached must not cost the lease, nor a store that cannot
be reached the lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from core.errors import ClaimLost, GeoworkerError
from core.ports import StateStore
from core.records import Claim
from core.stopping import StopReason, StopToken
from core.watching import WatchingThread

logger = logging.getLogger(__name__)

Renew = Callable[[], timedelta | None]
"""Extends a delivery's lock and answers when it is to be extended next (None: with the lease)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatOptions:
    """``interval`` between renewals of the lease, ``poll`` between looks at whether the job still wants the task.

    A renewal is never later than its interval because ``poll`` is longer.
    """

    interval: timedelta = timedelta(seconds=20)
    poll: timedelta = timedelta(seconds=2)

    @property
    def pause(self) -> timedelta:
        """How long the threads sleep between two looks."""
        return min(self.poll, self.interval / 2)


@dataclass(slots=True)
class HeartbeatCounts:
    """What the heartbeats of a process have done; read by metrics."""

    renewed: int = 0
    leases_lost: int = 0
    locks_lost: int = 0
    failed: int = 0


class Heartbeat:
    """Reusable for one task at a time.

    A lost delivery lock is logged and harmless. A lost lease stops the task: another attempt owns it.
    """

    def __init__(self, store: StateStore, options: HeartbeatOptions, counts: HeartbeatCounts | None = None) -> None:
        self._store = store
        self._options = options
        self._counts = counts or HeartbeatCounts()
        self._lease: _Lease | None = None
        self._leases = WatchingThread("heartbeat", self._look_after_lease, poll=options.pause)
        self._locks = WatchingThread("lock-keeper", self._look_after_lock, poll=options.pause)

    def start(self, claim: Claim, stop: StopToken, renew: Renew | None) -> None:
        """Begin to keep ``claim`` alive; ``renew`` extends the delivery's lock."""
        self._lease = _Lease(claim, stop)
        self._leases.start(self._lease)
        if renew is not None:
            self._locks.start(_Lock(claim, renew))

    def expect_end(self) -> None:
        """The task's end is being recorded: go on renewing. A claim that is gone now has ended, and is not lost."""
        if self._lease is not None:
            self._lease.ending = True

    def finish(self) -> None:
        """Stop renewing."""
        self._lease = None
        self._leases.finish()
        self._locks.finish()

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._leases.close()
        self._locks.close()

    def _look_after_lease(self, lease: _Lease) -> None:
        try:
            if time.monotonic() - lease.last_beat >= self._options.interval.total_seconds():
                signal = self._store.heartbeat(lease.claim)
                lease.last_beat = time.monotonic()
                self._counts.renewed += 1
            else:
                signal = self._store.check_claim(lease.claim)
        except ClaimLost as error:
            if self._leases.watches(lease) and not lease.ending:
                self._counts.leases_lost += 1
                logger.warning("%s", error, extra={"action": "lease.lost", "task_id": error.task_id})
                lease.stop.request(StopReason.LEASE_LOST)
            return
        except GeoworkerError as error:
            # The store is away. The lease may run out meanwhile; then the fence decides, not this thread.
            self._counts.failed += 1
            logger.warning("heartbeat failed: %s", error, extra={"action": "heartbeat.failed"})
            return
        if signal.cancel_requested:
            lease.stop.request(StopReason.CANCELLED)

    def _look_after_lock(self, lock: _Lock) -> timedelta | None:
        if lock.renew is None or not self._locks.watches(lock):
            return None
        try:
            return lock.renew() or self._options.interval
        except GeoworkerError as error:
            if self._locks.watches(lock):  # else it was settled while this thread asked
                self._counts.locks_lost += 1
                logger.warning(
                    "the delivery's lock is lost; the lease still holds: %s",
                    error,
                    extra={"action": "lock.lost", "task_id": lock.claim.task_id},
                )
            lock.renew = None
            return None


@dataclass(slots=True, eq=False)
class _Lease:
    claim: Claim
    stop: StopToken
    ending: bool = False
    last_beat: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _Lock:
    claim: Claim
    renew: Renew | None
