from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import pytest

from core.errors import ClaimLost, GeoworkerError, StoreUnavailable
from core.heartbeat import Heartbeat, HeartbeatCounts, HeartbeatOptions
from core.ports import StateStore
from core.records import Claim, ClaimSignal, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopReason, StopToken

SOON = 1.0  # seconds; below the default poll of two
FAST = HeartbeatOptions(interval=timedelta(milliseconds=40))


class Store:
    """Counts the beats, and answers with what it was told to."""

    def __init__(self) -> None:
        self.beats = threading.Semaphore(0)
        self.answers: list[ClaimSignal | GeoworkerError] = []

    def heartbeat(self, claim: Claim) -> ClaimSignal:
        self.beats.release()
        return self.check_claim(claim) if self.answers else ClaimSignal()

    def check_claim(self, claim: Claim) -> ClaimSignal:
        answer = self.answers.pop(0) if self.answers else ClaimSignal()
        if isinstance(answer, GeoworkerError):
            raise answer
        return answer


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def heartbeat(store: Store) -> Iterator[Heartbeat]:
    beating = Heartbeat(cast(StateStore, store), FAST, HeartbeatCounts())
    yield beating
    beating.close()


def claim() -> Claim:
    task = TaskRecord(
        task_id="t", job_id="j", job_type="x", task_type="x", stage=1, task_index=0, runs_on=RunsOn.DOCKER,
        status=TaskStatus.PROCESSING, parameters={},
    )  # fmt: skip
    return Claim(task=task, attempt=1, worker_id="w", lease=timedelta(seconds=60))


def test_a_lease_is_renewed_on_time_although_the_looks_between_are_rarer(store: Store, heartbeat: Heartbeat) -> None:
    assert FAST.poll.total_seconds() > SOON
    heartbeat.start(claim(), StopToken(), None)
    for _ in range(3):
        assert store.beats.acquire(timeout=SOON)


def test_each_renewal_renews_the_deliverys_lock_too(heartbeat: Heartbeat) -> None:
    renewed = threading.Semaphore(0)
    heartbeat.start(claim(), StopToken(), renewed.release)
    for _ in range(3):
        assert renewed.acquire(timeout=SOON)


def test_a_lost_lock_is_let_go_and_the_lease_still_held(store: Store, heartbeat: Heartbeat) -> None:
    asked: list[int] = []

    def renew() -> None:
        asked.append(1)
        raise GeoworkerError("the lock is lost")

    stop = StopToken()
    heartbeat.start(claim(), stop, renew)
    for _ in range(3):
        assert store.beats.acquire(timeout=SOON)
    assert asked == [1]
    assert not stop.requested


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ClaimLost("t", 1), StopReason.LEASE_LOST),
        (ClaimSignal(cancel_requested=True), StopReason.CANCELLED),
        (StoreUnavailable("away"), None),
    ],
)
def test_what_the_store_answers_reaches_the_task(
    store: Store, heartbeat: Heartbeat, answer: Any, reason: StopReason | None
) -> None:
    store.answers.append(answer)
    stop = StopToken()
    heartbeat.start(claim(), stop, None)
    assert stop.wait(SOON) if reason is not None else store.beats.acquire(timeout=SOON)
    assert stop.reason is reason
