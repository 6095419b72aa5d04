"""The relay's and the sweeper's threads outlive everything, and say what it was."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import timedelta

import pytest

from core.errors import StoreUnavailable
from core.messages import Channel
from core.records import OutboxEntry, SweepReport
from infrastructure.relay import Relay, RelayOptions
from infrastructure.sweeper import Sweeper
from testing import MockStateManager

FAULTS = [RuntimeError("a fault of the code"), StoreUnavailable("the database is away")]


class Silent:
    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        pass


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_the_sweeper_goes_on_after_any_fault_and_tells_it(fault: Exception) -> None:
    seen: list[str | None] = []
    again = threading.Event()

    class Breaks:
        def sweep(self, *, limit: int) -> SweepReport:
            if not seen:
                seen.append(None)
                raise fault
            seen.append(sweeper.last_error)
            again.set()
            return SweepReport()

    sweeper = Sweeper(Breaks(), Silent(), interval=timedelta(milliseconds=1))
    sweeper.start()
    assert again.wait(10)
    sweeper.stop()
    assert str(fault) in str(seen[1])
    assert sweeper.last_error is None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_the_relay_goes_on_after_any_fault_and_tells_it(fault: Exception) -> None:
    calls: list[str | None] = []
    again = threading.Event()

    class Breaks(MockStateManager):
        def next_due(self, channels: Iterable[Channel]) -> timedelta | None:
            calls.append(relay.status.last_error)
            if len(calls) == 1:
                raise fault
            again.set()
            return super().next_due(channels)

    store = Breaks()
    relay = Relay(store, store, {}, RelayOptions(poll=timedelta(milliseconds=1)))
    relay.start()
    assert again.wait(10)
    relay.stop()
    assert str(fault) in str(calls[1])
