"""The sweeper's thread: one ordered pass every few seconds, its last run visible to health and metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta

from core.errors import GeoworkerError
from core.ports import MessagePublisher, SweepStore
from core.records import SweepReport
from infrastructure.periodic import Periodic

logger = logging.getLogger(__name__)


class Sweeper:
    """Runs :meth:`SweepStore.sweep` at an interval until stopped."""

    def __init__(
        self,
        store: SweepStore,
        publisher: MessagePublisher,
        *,
        interval: timedelta = timedelta(seconds=15),
        limit: int = 500,
        observe: Callable[[SweepReport], None] | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._limit = limit
        self._observe = observe
        self._passes = Periodic("sweeper", interval, self.run_once, failed=self._failed)
        self.last_error: str | None = None

    def run_once(self) -> SweepReport:
        """One pass, now.

        Raises:
            StoreUnavailable: when the store cannot be reached.
        """
        report = self._store.sweep(limit=self._limit)
        self._publisher.publish(report.messages)
        if report.total:
            logger.info("swept", extra={"action": "sweeper.swept", **asdict(report, dict_factory=_counts)})
        if self._observe is not None:
            self._observe(report)
        self.last_error = None
        return report

    def start(self) -> None:
        """Sweep in a thread, at once and then every interval."""
        self._passes.start()

    def stop(self) -> None:
        """End the thread; a pass that hangs is left to itself (each of its steps is atomic). Idempotent."""
        self._passes.stop()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, GeoworkerError):
            self.last_error = str(error)
            logger.warning("the sweep failed: %s", error, extra={"action": "sweeper.failed"})
        else:
            self.last_error = f"{type(error).__name__}: {error}"
            logger.error("the sweep broke", exc_info=error, extra={"action": "sweeper.failed"})


def _counts(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in pairs if isinstance(value, int)}
