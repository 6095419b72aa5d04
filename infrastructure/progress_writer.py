"""The progress of one execution on its way to the store: written at most twice a second, and the last word always."""

from __future__ import annotations

import logging
import os
import threading
import time

from core.errors import ClaimLost, GeoworkerError, StoreUnavailable
from core.ports import CheckpointStore
from core.records import Claim, Progress

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5


class ProgressWriter:
    """The sink behind ``context.report_progress``. Thread-safe.

    What comes sooner than ``interval`` seconds after the last write waits for its turn, and what is newer replaces it:
    a handler that falls silent after a report is still shown with that report. 100 % is written at once. Progress that
    cannot be saved because the store is away is dropped: it is a courtesy, and the work goes on.
    """

    _waiting: Progress | None = None
    _written: Progress | None = None
    _timer: threading.Timer | None = None
    _lost: ClaimLost | None = None
    _closed = False

    def __init__(self, claim: Claim, store: CheckpointStore, *, interval: float = INTERVAL_SECONDS) -> None:
        self._claim = claim
        self._store = store
        self._interval = interval
        self._lock = threading.RLock()
        self._written_at = -interval
        self._owner = os.getpid()

    def __call__(self, progress: Progress) -> None:
        """Write ``progress`` now or soon.

        Raises:
            ClaimLost: when another attempt owns the task.
        """
        if os.getpid() != self._owner:
            return  # a fork of the task's process writes nothing in its name
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._waiting = progress
            due_in = self._written_at + self._interval - time.monotonic()
            completes = progress.percent >= 100 and (self._written is None or self._written.percent < 100)
            if due_in <= 0 or completes:
                self._write()
            elif self._timer is None and not self._closed:
                self._timer = threading.Timer(due_in, self._write_late)
                self._timer.name = "geoworker-progress"
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Write what waits and end the timer. Never fails; a lost claim shows itself at the next fenced write."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._closed = True
            self._cancel_timer()
            if self._waiting is not None and self._lost is None:
                self._write_quietly()

    def _write(self) -> None:
        self._cancel_timer()
        progress, self._waiting = self._waiting, None
        if progress is None:
            return
        self._written_at = time.monotonic()
        try:
            self._store.save_progress(self._claim, progress)
        except StoreUnavailable as error:
            logger.warning("progress was not saved: %s", error, extra={"action": "progress.dropped"})
        else:
            self._written = progress

    def _write_quietly(self) -> None:
        try:
            self._write()
        except ClaimLost as error:
            self._lost = error
        except GeoworkerError as error:
            logger.warning("progress was not saved: %s", error, extra={"action": "progress.dropped"})

    def _write_late(self) -> None:
        with self._lock:
            if self._timer is not None:  # not cancelled while this thread waited for the lock
                self._write_quietly()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
