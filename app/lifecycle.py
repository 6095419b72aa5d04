"""Starting and stopping in order: SIGTERM -> stop intake -> drain -> flush -> close."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from app.worker import BackgroundQueueWorker
from core.stopping import StopReason

logger = logging.getLogger(__name__)

RECORDING_SECONDS = 3.0
"""What recording the end of a task may take after its grace is over."""
CLOSING_SECONDS = 6.0
"""What flushing the outbox and closing connections may take after that, whatever is out of reach."""


class LifecycleState(StrEnum):
    """Where the process is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting_down"
    STOPPED = "stopped"


class Background(Protocol):
    """A part with a thread of its own: the relay, the sweeper."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class DockerWorkerLifecycle:
    """Owns the order in which a process's parts start and stop.

    Shutdown: readiness off, sources stop receiving, running handlers are asked to stop and have ``grace`` seconds to
    save their checkpoint (the executor ends those that do not listen), their tasks are released, the outbox is
    flushed, connections are closed. The lease and lock renewal goes on until each task has ended.
    """

    def __init__(
        self,
        workers: Sequence[BackgroundQueueWorker],
        background: Sequence[Background],
        close: Sequence[Callable[[], None]],
        *,
        grace: float,
    ) -> None:
        self.workers = list(workers)
        self._background = list(background)
        self._close = list(close)
        self._grace = grace
        self._state = LifecycleState.STARTING
        self._lock = threading.Lock()
        self._stopping_since: float | None = None
        self.stopped = threading.Event()

    @property
    def state(self) -> LifecycleState:
        """Where the process is in its life."""
        return self._state

    @property
    def longest_stop(self) -> float:
        """Seconds after which a stop is over even when the database, the queue and the handlers are deaf."""
        return self._grace + RECORDING_SECONDS + CLOSING_SECONDS

    @property
    def is_shutting_down(self) -> bool:
        """Whether a stop was asked for."""
        return self._state in (LifecycleState.SHUTTING_DOWN, LifecycleState.STOPPED)

    def start_background(self) -> None:
        """Start the relay and the sweeper alone: where a host triggers the work, no loop of ours polls for it."""
        for part in self._background:
            part.start()
        self._state = LifecycleState.RUNNING

    def start(self) -> None:
        """Start the background parts, then the workers."""
        self.start_background()
        for worker in self.workers:
            worker.start()

    def initiate_shutdown(self) -> None:
        """Begin to stop; returns at once. Safe in a signal handler's thread and more than once."""
        with self._lock:
            if self.is_shutting_down:
                return
            self._state = LifecycleState.SHUTTING_DOWN
            self._stopping_since = time.monotonic()
        logger.info("shutting down", extra={"action": "worker.stopping"})
        for worker in self.workers:
            worker.stop(StopReason.DRAIN)

    def drain(self) -> bool:
        """Wait for running tasks to be released, then flush and close; True when every loop ended in time."""
        self.initiate_shutdown()
        started = self._stopping_since or time.monotonic()
        # The executor ends a handler that does not listen when the grace is over; recording that takes a moment more.
        deadline = started + self._grace + RECORDING_SECONDS
        ended = True
        for worker in self.workers:
            ended &= worker.join(max(0.1, deadline - time.monotonic()))
        for part in reversed(self._background):
            part.stop()
        ended &= self._close_all(until=started + self.longest_stop - 1.0)
        self._state = LifecycleState.STOPPED
        self.stopped.set()
        logger.info(
            "stopped after %.2f s",
            time.monotonic() - started,
            extra={"action": "worker.stopped", "drained": ended},
        )
        return ended

    def _close_all(self, *, until: float) -> bool:
        """Close every part in order; False when that is not over at ``until`` (a broker that does not answer)."""

        def close_in_order() -> None:
            for close in self._close:
                try:
                    close()
                except Exception:  # one part that fails to close must not keep the others open
                    logger.exception("a part failed to close", extra={"action": "worker.close_failed"})

        closing = threading.Thread(target=close_in_order, name="closing", daemon=True)
        closing.start()
        closing.join(max(1.0, until - time.monotonic()))
        return not closing.is_alive()
