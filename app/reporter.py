"""The heartbeat of a process: what it is and does, written to the store, so that any dashboard shows every process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from core.errors import GeoworkerError
from infrastructure.periodic import Periodic
from infrastructure.postgres.worker_store import PostgresWorkerStore, WorkerReport

logger = logging.getLogger(__name__)

_FORGET_AFTER = timedelta(days=1)
_FORGET_EVERY = 720  # reports
_STOP_SECONDS = 10.0


class Reporter:
    """Reports at an interval until stopped; the last report says that the process has stopped."""

    def __init__(
        self,
        store: PostgresWorkerStore,
        describe: Callable[[], WorkerReport],
        *,
        interval: timedelta = timedelta(seconds=5),
    ) -> None:
        self._store = store
        self._describe = describe
        self._reporting = Periodic("reporter", interval, self.report, failed=self._failed)
        self._reports = 0

    def report(self) -> None:
        """Report now.

        Raises:
            StoreUnavailable: when the store cannot be reached.
        """
        if self._reports % _FORGET_EVERY == 0:
            self._store.forget(_FORGET_AFTER)
        self._store.report(self._describe(), first=self._reports == 0)
        self._reports += 1

    def start(self) -> None:
        """Report in a thread, at once and then every interval."""
        self._reporting.start()

    def stop(self) -> None:
        """End the thread with a last report. Idempotent."""
        if self._reporting.stop(_STOP_SECONDS):
            with contextlib.suppress(GeoworkerError):
                self._store.report(replace(self._describe(), state="stopped"), first=False)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, GeoworkerError):  # health shows the database's absence; the next report says the rest
            logger.debug("no report: %s", error, extra={"action": "reporter.failed"})
        else:
            logger.error("the report broke", exc_info=error, extra={"action": "reporter.failed"})
