"""A running task's lease and its delivery's lock are kept apart from each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.errors import ClaimLost, GeoworkerError, StoreUnavailable
from core.handlers import HandlerRegistry, HandlerSpec
from core.heartbeat import Heartbeat, HeartbeatCounts, HeartbeatOptions
from core.jobs import JobRegistry
from core.machine import CoreMachine, MachineOptions
from core.messages import StageComplete, TaskMessage
from core.outcome import Finished
from core.ports import Execution, Returned
from core.records import Claim, ClaimSignal, OutboxEntry, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopReason, StopToken
from testing.mock_state_manager import MockStateManager

TICK = timedelta(milliseconds=10)


class Store:
    """The two methods that a heartbeat calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.beats = threading.Semaphore(0)

    def heartbeat(self, claim: Claim) -> ClaimSignal:
        self.beats.release()
        if self.error is not None:
            raise self.error
        return ClaimSignal(cancel_requested=False)

    check_claim = heartbeat


class Lock:
    """A delivery's lock that notes each renewal."""

    def __init__(self, *, every: timedelta | None = TICK, error: Exception | None = None) -> None:
        self.every = every
        self.error = error
        self.renewals = threading.Semaphore(0)

    def renew(self) -> timedelta | None:
        self.renewals.release()
        if self.error is not None:
            raise self.error
        return self.every


def several(semaphore: threading.Semaphore, count: int = 3) -> bool:
    return all(semaphore.acquire(timeout=10) for _ in range(count))


@pytest.fixture
def claim() -> Claim:
    task = TaskRecord(
        task_id="t",
        job_id="j",
        job_type="job",
        task_type="work",
        stage=1,
        task_index=0,
        runs_on=RunsOn.DOCKER,
        status=TaskStatus.PROCESSING,
        parameters={},
        attempt=1,
    )
    return Claim(task=task, attempt=1, worker_id="w", lease=timedelta(seconds=60))


@pytest.fixture
def counts() -> HeartbeatCounts:
    return HeartbeatCounts()


@pytest.fixture
def make(counts: HeartbeatCounts) -> Iterator[Any]:
    made: list[Heartbeat] = []

    def heartbeat(store: Any, poll: timedelta = TICK) -> Heartbeat:
        made.append(Heartbeat(store, HeartbeatOptions(interval=TICK, poll=poll), counts))
        return made[-1]

    yield heartbeat
    for one in made:
        one.close()


def test_a_transport_that_hangs_does_not_cost_the_lease(make: Any, claim: Claim) -> None:
    store, hanging, asked = Store(), threading.Event(), threading.Event()

    def renew() -> None:
        asked.set()
        hanging.wait(30)

    heartbeat = make(store)
    heartbeat.start(claim, StopToken(), renew)
    assert asked.wait(10)
    assert several(store.beats)
    hanging.set()


def test_a_store_that_is_away_does_not_cost_the_lock(make: Any, claim: Claim) -> None:
    lock, stop = Lock(), StopToken()
    make(Store(StoreUnavailable("away"))).start(claim, stop, lock.renew)
    assert several(lock.renewals)
    assert not stop.requested


def test_a_lock_is_renewed_when_it_asks_to_be_not_at_the_polls(make: Any, claim: Claim) -> None:
    """A lock shorter than three polls: the renewals after the first come faster than the poll."""
    lock = Lock(every=TICK)
    make(Store(), poll=timedelta(milliseconds=500)).start(claim, StopToken(), lock.renew)
    assert lock.renewals.acquire(timeout=10)
    assert all(lock.renewals.acquire(timeout=0.4) for _ in range(3))


def test_a_lost_lock_is_asked_for_once_and_the_task_goes_on(
    make: Any, claim: Claim, counts: HeartbeatCounts, caplog: pytest.LogCaptureFixture
) -> None:
    store, lock, stop = Store(), Lock(error=GeoworkerError("gone")), StopToken()
    make(store).start(claim, stop, lock.renew)
    assert lock.renewals.acquire(timeout=10)
    assert several(store.beats, 5)
    assert not lock.renewals.acquire(blocking=False)
    assert not stop.requested
    assert counts.locks_lost == 1
    assert [r for r in caplog.records if getattr(r, "action", "") == "lock.lost"]


def test_a_lost_lease_stops_the_task(make: Any, claim: Claim, counts: HeartbeatCounts) -> None:
    stop = StopToken()
    make(Store(ClaimLost("t", 1))).start(claim, stop, None)
    assert stop.wait(10)
    assert stop.reason is StopReason.LEASE_LOST
    assert counts.leases_lost == 1


def test_nothing_is_renewed_after_the_finish(make: Any, claim: Claim) -> None:
    store, lock = Store(), Lock()
    heartbeat = make(store)
    heartbeat.start(claim, StopToken(), lock.renew)
    assert several(lock.renewals)
    heartbeat.finish()
    threading.Event().wait(0.05)  # a look that had begun may end
    while lock.renewals.acquire(blocking=False):
        pass
    while store.beats.acquire(blocking=False):
        pass
    assert not lock.renewals.acquire(timeout=0.1)
    assert not store.beats.acquire(timeout=0.1)
    heartbeat.start(claim, StopToken(), lock.renew)
    assert several(lock.renewals)


class Watched(MockStateManager):
    """Tells when a look finds the claim ended."""

    def __init__(self) -> None:
        super().__init__()
        self.found_ended = threading.Semaphore(0)

    def check_claim(self, claim: Claim) -> ClaimSignal:
        try:
            return super().check_claim(claim)
        except ClaimLost:
            self.found_ended.release()
            raise


class Slow:
    """Publishes only after a heartbeat has looked at the ended task."""

    def __init__(self, looked: threading.Semaphore) -> None:
        self.looked = looked
        self.waited: list[bool] = []

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        if any(isinstance(entry.message, StageComplete) for entry in entries):
            self.waited.append(self.looked.acquire(timeout=10))


class Immediate:
    """An executor whose tasks are done at once."""

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        return Returned(result={"success": True})

    def close(self) -> None:
        pass


def test_a_task_that_has_ended_is_not_taken_for_a_lost_lease(caplog: pytest.LogCaptureFixture) -> None:
    store = Watched()
    publisher = Slow(store.found_ended)
    machine = CoreMachine(
        jobs=JobRegistry([]),
        handlers=HandlerRegistry([HandlerSpec(task_type="work", handler=lambda params, context: {})]),
        store=store,
        publisher=publisher,
        executor=Immediate(),
        options=MachineOptions(
            worker_id="w", heartbeat=HeartbeatOptions(interval=timedelta(seconds=60), poll=timedelta(milliseconds=5))
        ),
    )
    store.create_test_job("j", "job")
    store.create_test_task("t", "j", "work")
    stop = StopToken()
    message = TaskMessage(task_id="t", parent_job_id="j", job_type="job", task_type="work", stage=1)
    outcome = machine.run_task(message, stop=stop)
    machine.close()
    assert isinstance(outcome, Finished)
    assert publisher.waited == [True]
    assert not stop.requested
    assert machine.heartbeat_counts.leases_lost == 0
    assert not [record for record in caplog.records if getattr(record, "action", "") == "lease.lost"]
