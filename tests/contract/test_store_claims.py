"""StateStore contract: claims, leases, heartbeats and the fence around every write of an execution."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from core.errors import ClaimLost, IllegalTransition
from core.messages import TaskMessage
from core.records import AttemptOutcome, Checkpoint, Claim, NotClaimed, Progress, RunsOn, TaskPlan, TaskQuery
from core.states import JobStatus, TaskStatus
from tests.contract.stores import LEASE, MINUTE, PERMANENT, TRANSIENT, WORKER, Given

Write = Callable[[Given, Claim], object]

WRITES: dict[str, Write] = {
    "heartbeat": lambda given, claim: given.state.heartbeat(claim),
    "check_claim": lambda given, claim: given.state.check_claim(claim),
    "complete": lambda given, claim: given.state.complete_task(claim, {"success": True}),
    "fail": lambda given, claim: given.state.fail_task(claim, PERMANENT, retry_in=None),
    "retry": lambda given, claim: given.state.fail_task(claim, TRANSIENT, retry_in=MINUTE),
    "release": lambda given, claim: given.state.release_task(claim, reason="drain"),
    "cancel": lambda given, claim: given.state.cancel_task(claim, reason="cancelled"),
    "load_checkpoint": lambda given, claim: given.checkpoints.load_checkpoint(claim),
    "save_checkpoint": lambda given, claim: given.checkpoints.save_checkpoint(claim, Checkpoint(phase=9)),
    "save_items": lambda given, claim: given.checkpoints.save_items(claim, 1, {"late": {}}),
    "clear_checkpoint": lambda given, claim: given.checkpoints.clear_checkpoint(claim),
    "save_progress": lambda given, claim: given.checkpoints.save_progress(claim, Progress(percent=99)),
}


def test_a_claim_starts_an_attempt_and_holds_a_lease(given: Given) -> None:
    job = given.running_job(2)
    claim = given.claim(job.job_id, worker="w9")
    assert (claim.attempt, claim.worker_id, claim.lease) == (1, "w9", LEASE)
    task = given.task_now(job.job_id)
    assert claim.task == task
    assert (task.status, task.attempt, task.lease_owner) == (TaskStatus.PROCESSING, 1, "w9")
    assert task.started_at is not None
    assert task.lease_expires_at == task.started_at + LEASE
    assert given.task_now(job.job_id, 1).status is TaskStatus.PENDING
    assert given.state.list_attempts(task.task_id) == []


def test_a_live_lease_refuses_other_claims(given: Given) -> None:
    job = given.running_job(1)
    given.claim(job.job_id, worker="w1")
    given.advance(LEASE - timedelta(seconds=10))
    refused = given.try_claim(job.job_id, worker="w2")
    assert refused == NotClaimed(reason="w1 holds a live lease")
    assert given.task_now(job.job_id).attempt == 1


def test_an_expired_lease_is_the_sweepers_to_end(given: Given) -> None:
    job = given.running_job(1)
    given.claim(job.job_id)
    given.advance(LEASE + timedelta(seconds=10))
    refused = given.try_claim(job.job_id, worker="w2")
    assert refused == NotClaimed(reason="its lease has run out and the sweeper has not requeued it yet")
    given.sweeps.sweep(limit=10)
    assert given.claim(job.job_id, worker="w2").attempt == 2


def test_an_unknown_task_is_told_apart(given: Given) -> None:
    refused = given.state.claim_task("nope", worker_id=WORKER, lease=LEASE)
    assert refused == NotClaimed(reason="no such task", known=False)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_an_ended_task_is_not_claimed(given: Given, status: str) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    WRITES[{"completed": "complete", "failed": "fail", "cancelled": "cancel"}[status]](given, claim)
    assert given.try_claim(job.job_id) == NotClaimed(reason=f"it is already {status}")


def test_a_task_that_waits_for_a_retry_is_not_due(given: Given) -> None:
    job = given.running_job(1)
    given.state.fail_task(given.claim(job.job_id), TRANSIENT, retry_in=timedelta(minutes=5))
    assert given.try_claim(job.job_id) == NotClaimed(reason="it is not due yet")
    given.advance(timedelta(minutes=4))
    assert given.try_claim(job.job_id) == NotClaimed(reason="it is not due yet")
    given.advance(timedelta(minutes=2))
    claim = given.claim(job.job_id)
    assert (claim.attempt, claim.task.failures, claim.task.execute_after) == (2, 1, None)


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.FAILED])
def test_tasks_of_an_ended_job_are_not_claimed(given: Given, status: JobStatus) -> None:
    job = given.running_job(2)
    claim = given.claim(job.job_id)
    given.backend.force_status("jobs", job.job_id, status)
    assert given.try_claim(job.job_id, 1) == NotClaimed(reason=f"its job is {status}")
    given.state.release_task(claim, reason="drain")
    assert given.try_claim(job.job_id, 0) == NotClaimed(reason=f"its job is {status}")


def test_a_heartbeat_extends_the_lease_from_now(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    for _ in range(5):
        given.advance(LEASE - timedelta(seconds=10))
        assert not given.state.heartbeat(claim).cancel_requested
        assert given.sweeps.sweep(limit=10).leases_expired == 0
    given.state.complete_task(claim, {"success": True})


def test_looking_at_a_claim_does_not_extend_it(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    given.advance(LEASE - timedelta(seconds=10))
    assert not given.state.check_claim(claim).cancel_requested
    given.advance(timedelta(seconds=20))
    assert given.sweeps.sweep(limit=10).leases_expired == 1


def test_a_lapsed_lease_that_nobody_took_is_still_the_owners(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    given.advance(LEASE * 10)
    assert not given.state.heartbeat(claim).cancel_requested
    assert given.sweeps.sweep(limit=10).leases_expired == 0
    assert given.state.complete_task(claim, {"success": True}).last_in_stage


@pytest.mark.parametrize("write", WRITES)
def test_a_stale_token_changes_nothing(given: Given, write: str) -> None:
    job = given.running_job(2)
    stale = given.claim(job.job_id, worker="old")
    given.advance(LEASE + MINUTE)
    given.sweeps.sweep(limit=10)
    fresh = given.claim(job.job_id, worker="new")
    given.checkpoints.save_checkpoint(fresh, Checkpoint(phase=1, data={"kept": True}))
    given.checkpoints.save_items(fresh, 1, {"a": {"kept": True}})
    before = given.task_now(job.job_id), given.state.list_stages(job.job_id), given.messages()
    with pytest.raises(ClaimLost) as lost:
        WRITES[write](given, stale)
    assert (lost.value.task_id, lost.value.attempt) == (stale.task_id, 1)
    assert (given.task_now(job.job_id), given.state.list_stages(job.job_id), given.messages()) == before
    assert given.checkpoints.load_items(fresh, 1) == {"a": {"kept": True}}
    assert [attempt.attempt for attempt in given.state.list_attempts(stale.task_id)] == [1]


@pytest.mark.parametrize("ending", ["complete", "fail", "retry", "release", "cancel"])
@pytest.mark.parametrize("write", WRITES)
def test_after_its_end_an_attempt_writes_no_more(given: Given, ending: str, write: str) -> None:
    job = given.running_job(2)
    claim = given.claim(job.job_id)
    WRITES[ending](given, claim)
    before = given.task_now(job.job_id), given.state.list_stages(job.job_id), given.messages()
    same_outcome = {write, ending} <= {"fail", "retry"} or write == ending
    if same_outcome:  # the answer to the first call may have been lost: asked again, it says that it was made
        assert not WRITES[write](given, claim).applied  # type: ignore[attr-defined]
    else:
        with pytest.raises(ClaimLost):
            WRITES[write](given, claim)
    assert (given.task_now(job.job_id), given.state.list_stages(job.job_id), given.messages()) == before
    assert len(given.state.list_attempts(claim.task_id)) == 1


def test_a_release_gives_the_task_back_at_once_and_counts_no_failure(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    sent = len(given.messages(TaskMessage))
    assert given.state.release_task(claim, reason="drain\x00").applied
    task = given.task_now(job.job_id)
    assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 0, 1)
    assert task.lease_owner is task.lease_expires_at is task.execute_after is None
    (attempt,) = given.state.list_attempts(task.task_id)
    assert (attempt.outcome, attempt.reason, attempt.worker_id) == (AttemptOutcome.INTERRUPTED, "drain\ufffd", WORKER)
    hints = given.messages(TaskMessage)
    assert len(hints) == sent + 1
    assert hints[-1].attempt == 1  # type: ignore[union-attr]
    assert given.claim(job.job_id).attempt == 2


def test_a_retry_waits_counts_and_sends_its_hint_when_it_is_due(given: Given) -> None:
    job = given.running_job(1)
    given.send_all()
    claim = given.claim(job.job_id)
    commit = given.state.fail_task(claim, TRANSIENT, retry_in=timedelta(minutes=3))
    assert commit.applied
    assert not commit.last_in_stage
    assert list(commit.messages) == []
    task = given.task_now(job.job_id)
    assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 1, 0)
    assert task.error_details == TRANSIENT
    assert task.finished_at is None
    (attempt,) = given.state.list_attempts(task.task_id)
    assert (attempt.outcome, attempt.error_details) == (AttemptOutcome.FAILED, TRANSIENT)
    assert given.send_all() == []
    given.advance(timedelta(minutes=4))
    assert [message.attempt for message in given.send_all()] == [1]  # type: ignore[union-attr]


def test_the_history_of_a_task_is_its_attempts_in_order(given: Given) -> None:
    job = given.running_job(1, max_attempts=5)
    given.state.release_task(given.claim(job.job_id, worker="w1"), reason="drain")
    given.state.fail_task(given.claim(job.job_id, worker="w2"), TRANSIENT, retry_in=timedelta(0))
    given.claim(job.job_id, worker="w3")
    given.advance(LEASE + MINUTE)
    given.sweeps.sweep(limit=10)
    given.advance(MINUTE)
    given.state.complete_task(given.claim(job.job_id, worker="w4"), {"success": True})
    task = given.task_now(job.job_id)
    history = given.state.list_attempts(task.task_id)
    assert [(a.attempt, a.worker_id, a.outcome) for a in history] == [
        (1, "w1", AttemptOutcome.INTERRUPTED),
        (2, "w2", AttemptOutcome.FAILED),
        (3, "w3", AttemptOutcome.LEASE_EXPIRED),
        (4, "w4", AttemptOutcome.COMPLETED),
    ]
    assert all(a.started_at <= a.ended_at for a in history)
    assert (task.attempt, task.failures, task.interruptions) == (4, 2, 1)
    assert task.error_details is None


def test_tasks_are_filtered_and_paged(given: Given) -> None:
    job = given.running_job(5, "a", total_stages=2)
    other = given.job("b")
    given.plan(other.job_id, 2, runs_on=RunsOn.FUNCTIONS)
    given.claim(job.job_id, 3)

    def listed(**query: object) -> list[int]:
        return [task.task_index for task in given.state.list_tasks(TaskQuery(**query))]  # type: ignore[arg-type]

    assert listed(job_id=job.job_id) == [0, 1, 2, 3, 4]
    assert listed(job_id=job.job_id, offset=1, limit=2) == [1, 2]
    assert listed(job_id=job.job_id, status=TaskStatus.PROCESSING) == [3]
    assert listed(job_id=job.job_id, stage=2) == []
    assert listed(runs_on=RunsOn.FUNCTIONS) == [0, 1]
    assert len(listed()) == 7
    assert listed(job_id="nope") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (TaskStatus.COMPLETED, TaskStatus.QUEUED),
        (TaskStatus.FAILED, TaskStatus.PROCESSING),
        (TaskStatus.CANCELLED, TaskStatus.COMPLETED),
        (TaskStatus.PENDING, TaskStatus.COMPLETED),
        (TaskStatus.QUEUED, TaskStatus.PENDING),
        (TaskStatus.PROCESSING, TaskStatus.PENDING),
    ],
)
def test_an_illegal_change_of_a_task_cannot_be_written(given: Given, before: TaskStatus, after: TaskStatus) -> None:
    job = given.running_job([TaskPlan(parameters={})])
    task = given.task_now(job.job_id)
    if before is TaskStatus.QUEUED:
        given.send_all()
    elif before is not TaskStatus.PENDING:
        claim = given.claim(job.job_id)
        for status, write in (
            (TaskStatus.COMPLETED, "complete"),
            (TaskStatus.FAILED, "fail"),
            (TaskStatus.CANCELLED, "cancel"),
        ):
            if status is before:
                WRITES[write](given, claim)
    assert given.task_now(job.job_id).status is before
    with pytest.raises(IllegalTransition):
        given.backend.force_status("tasks", task.task_id, after)
    assert given.task_now(job.job_id).status is before
