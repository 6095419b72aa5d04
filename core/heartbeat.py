"""Keeps a running task's lease and its delivery's lock alive, from a thread that no handler can starve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from core.errors import ClaimLost, GeoworkerError
from core.ports import StateStore
from core.records import Claim
from core.stopping import StopReason, StopToken

logger = logging.getLogger(__name__)

_PARKED_POLLS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatOptions:
    """``interval`` between renewals of the lease, ``poll`` between looks at whether the job still wants the task.

    A renewal is never later than its interval because ``poll`` is longer.
    """

    interval: timedelta = timedelta(seconds=20)
    poll: timedelta = timedelta(seconds=2)

    @property
    def pause(self) -> timedelta:
        """How long the thread sleeps between two looks."""
        return min(self.poll, self.interval / 2)


@dataclass(slots=True)
class HeartbeatCounts:
    """What the heartbeats of a process have done; read by metrics."""

    renewed: int = 0
    leases_lost: int = 0
    locks_lost: int = 0
    failed: int = 0


class Heartbeat:
    """One reusable thread for one task at a time. The thread starts with a task, is parked between tasks, and ends when
    none came for a while.

    A lost delivery lock is logged and harmless. A lost lease stops the task: another attempt owns it.
    """

    def __init__(self, store: StateStore, options: HeartbeatOptions, counts: HeartbeatCounts | None = None) -> None:
        self._store = store
        self._options = options
        self._counts = counts or HeartbeatCounts()
        self._changed = threading.Condition()
        self._watch: _Watch | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self, claim: Claim, stop: StopToken, renew: Callable[[], None] | None) -> None:
        """Begin to keep ``claim`` alive; ``renew`` extends the delivery's lock."""
        with self._changed:
            self._watch = _Watch(claim, stop, renew)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()
            # A parked thread looks again within a poll, so that short tasks need not wake it.

    def finish(self) -> None:
        """Stop renewing."""
        with self._changed:
            self._watch = None

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._watch = None
            self._changed.notify()

    def _run(self) -> None:
        poll = self._options.pause.total_seconds()
        idle = 0
        while True:
            with self._changed:
                if self._closed:
                    return
                self._changed.wait(poll)
                watch = self._watch
                idle = idle + 1 if watch is None else 0
                if idle > _PARKED_POLLS:
                    self._thread = None
                    return
            if watch is not None:
                self._beat(watch)

    def _beat(self, watch: _Watch) -> None:
        try:
            if time.monotonic() - watch.last_beat >= self._options.interval.total_seconds():
                signal = self._store.heartbeat(watch.claim)
                watch.last_beat = time.monotonic()
                self._counts.renewed += 1
                self._counts.locks_lost += not watch.renew_lock()
            else:
                signal = self._store.check_claim(watch.claim)
        except ClaimLost as error:
            if self._watch is watch:
                self._counts.leases_lost += 1
                logger.warning("%s", error, extra={"action": "lease.lost", "task_id": error.task_id})
                watch.stop.request(StopReason.LEASE_LOST)
            return
        except GeoworkerError as error:
            # The store is away. The lease may run out meanwhile; then the fence decides, not this thread.
            self._counts.failed += 1
            logger.warning("heartbeat failed: %s", error, extra={"action": "heartbeat.failed"})
            return
        if signal.cancel_requested:
            watch.stop.request(StopReason.CANCELLED)


class _Watch:
    __slots__ = ("claim", "last_beat", "renew", "stop")

    def __init__(self, claim: Claim, stop: StopToken, renew: Callable[[], None] | None) -> None:
        self.claim = claim
        self.stop = stop
        self.renew = renew
        self.last_beat = time.monotonic()

    def renew_lock(self) -> bool:
        """Extend the delivery's lock; False when it is found lost."""
        if self.renew is None:
            return True
        try:
            self.renew()
        except GeoworkerError as error:
            logger.warning(
                "the delivery's lock is lost; the lease still holds: %s",
                error,
                extra={"action": "lock.lost", "task_id": self.claim.task_id},
            )
            self.renew = None
            return False
        return True
