"""Relays side by side: what is quick to send never waits for an HTTP receiver that hangs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.records import OutboxEntry
from infrastructure.relay import STOP_SECONDS, Relay, RelayStatus


class RelayLanes:
    """The MessagePublisher of a process with slow channels (callbacks, POSTs to a worker).

    ``quick`` sends in the caller's thread right after the commit. Each of ``slow`` sends in a thread of its own, which
    looks into the outbox as soon as anything is committed.
    """

    def __init__(self, quick: Relay, slow: Sequence[Relay]) -> None:
        self._quick = quick
        self._slow = list(slow)
        for lane in self._slow:
            lane.onward = quick.publish

    @property
    def status(self) -> RelayStatus:
        """Figures so far, of all lanes together."""
        return self._quick.status

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        """Send what is quick to send; have the slow lanes look for what is theirs. Never fails, never hangs."""
        self._quick.publish(entries)
        for lane in self._slow:
            lane.wake()

    def start(self) -> None:
        """Start every lane."""
        for lane in (self._quick, *self._slow):
            lane.start()

    def stop(self) -> None:
        """Flush every lane and end its thread, all within a few seconds. Idempotent.

        What a receiver does not take in that time stays in the outbox.
        """
        lanes = (self._quick, *self._slow)
        for lane in lanes:
            lane.stop_soon()
        until = time.monotonic() + STOP_SECONDS
        for lane in lanes:
            lane.stop(max(0.1, until - time.monotonic()))

    def flush(self) -> int:
        """Send all that is due now, the slow lanes' too; returns how many entries were taken.

        Raises:
            StoreUnavailable: when the outbox cannot be reached.
        """
        return sum(lane.flush() for lane in (self._quick, *self._slow))
