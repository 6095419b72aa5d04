"""StateStore contract: faults that are about who may still write, and about rows that stand in the way of others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.errors import ClaimLost
from core.messages import Channel, StageComplete, encode
from core.records import AttemptOutcome, NotClaimed, TaskPlan
from core.states import TaskStatus
from tests.contract.stores import LEASE, MINUTE, PERMANENT, TRANSIENT, Given

COMPLETED = {"success": True}


def test_a_new_process_that_reuses_a_worker_id_does_not_inherit_its_claims(given: Given) -> None:
    job = given.running_job(2)
    draining = given.claim(job.job_id, worker="worker-7")
    given.advance(LEASE + MINUTE)
    given.sweeps.sweep(limit=10)
    given.advance(MINUTE)
    successor = given.claim(job.job_id, worker="worker-7")
    assert (draining.attempt, successor.attempt) == (1, 2)
    for write in (
        lambda: given.state.heartbeat(draining),
        lambda: given.state.release_task(draining, reason="drain"),
        lambda: given.state.complete_task(draining, COMPLETED),
        lambda: given.state.fail_task(draining, PERMANENT, retry_in=None),
    ):
        with pytest.raises(ClaimLost):
            write()
    assert given.state.complete_task(successor, COMPLETED).applied
    outcomes = [attempt.outcome for attempt in given.state.list_attempts(successor.task_id)]
    assert outcomes == [AttemptOutcome.LEASE_EXPIRED, AttemptOutcome.COMPLETED]


def test_a_zombie_that_returns_after_its_successor_has_finished_changes_nothing(given: Given) -> None:
    job = given.running_job(1)
    zombie = given.claim(job.job_id, worker="cut off")
    given.advance(LEASE + MINUTE)
    given.sweeps.sweep(limit=10)
    given.advance(MINUTE)
    given.state.complete_task(given.claim(job.job_id, worker="successor"), {"success": True, "by": "successor"})
    for write in (
        lambda: given.state.heartbeat(zombie),
        lambda: given.state.complete_task(zombie, {"success": True, "by": "zombie"}),
        lambda: given.state.fail_task(zombie, TRANSIENT, retry_in=MINUTE),
    ):
        with pytest.raises(ClaimLost):
            write()
    task = given.task_now(job.job_id)
    assert (task.status, task.result_data) == (TaskStatus.COMPLETED, {"success": True, "by": "successor"})
    assert len(given.messages(StageComplete)) == 1


def test_a_late_heartbeat_does_not_revive_or_crash_a_completed_task(given: Given) -> None:
    job = given.running_job(2)
    claim = given.claim(job.job_id)
    given.state.complete_task(claim, COMPLETED)
    with pytest.raises(ClaimLost):
        given.state.heartbeat(claim)
    given.advance(LEASE + MINUTE)
    report = given.sweeps.sweep(limit=10)
    assert report.leases_expired == 0
    assert given.task_now(job.job_id).status is TaskStatus.COMPLETED
    assert [one.outcome for one in given.state.list_attempts(claim.task_id)] == [AttemptOutcome.COMPLETED]


def test_a_task_that_ends_after_its_job_was_cancelled_keeps_its_result_and_revives_nothing(given: Given) -> None:
    job = given.running_job(2)
    claim = given.claim(job.job_id)
    given.state.cancel_job(job.job_id, reason="r")
    assert given.state.heartbeat(claim).cancel_requested
    assert given.state.complete_task(claim, COMPLETED).applied
    assert given.job_now(job.job_id).status == "cancelled"
    assert not given.plan(job.job_id, 1, stage=2).applied


def test_messages_that_cannot_be_sent_do_not_starve_those_that_can(given: Given) -> None:
    given.running_job(5, "undeliverable")
    given.advance(MINUTE)
    stuck = given.outbox.take([Channel.DOCKER], limit=5, hold=MINUTE)
    for entry in stuck:
        given.outbox.mark_unsent(entry.entry_id, error="nobody listens", retry_in=timedelta(seconds=5))
    deliverable = given.running_job(2, "deliverable")
    given.advance(MINUTE)  # all seven are due, the five older ones first; a relay takes three at a time
    sent: list[str] = []
    for _ in range(3):
        for entry in given.outbox.take([Channel.DOCKER], limit=3, hold=MINUTE):
            if entry.message.parent_job_id == deliverable.job_id:  # type: ignore[union-attr]
                given.outbox.mark_sent([entry.entry_id])
                sent.append(entry.message.task_id)  # type: ignore[union-attr]
            else:
                given.outbox.mark_unsent(entry.entry_id, error="nobody listens", retry_in=timedelta(seconds=5))
    assert len(sent) == 2


def test_jobs_that_nobody_plans_do_not_starve_other_recoveries(given: Given) -> None:
    """Each pass is limited; what it has just hinted waits its turn, at growing intervals."""
    for number in range(6):
        given.job(f"nobody plans {number}")
    given.send_all()
    given.advance(MINUTE + MINUTE)
    late = given.running_job(1, "late")
    given.complete(late.job_id)
    given.send_all()
    given.advance(2 * MINUTE)
    completed = sum(given.sweeps.sweep(limit=3).stages_completed for _ in range(3))
    assert completed == 1


def test_a_failure_after_the_cancellation_starts_no_retry(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    given.state.cancel_job(job.job_id, reason="r")
    given.state.fail_task(claim, TRANSIENT, retry_in=timedelta(seconds=1))
    given.advance(MINUTE)
    refusal = given.try_claim(job.job_id)
    assert isinstance(refusal, NotClaimed)
    assert refusal.reason == "its job is cancelled"
    given.sweeps.sweep(limit=10)
    task = given.task_now(job.job_id)
    assert (task.status, task.attempt) == (TaskStatus.CANCELLED, 1)
    assert given.state.list_stages(job.job_id)[0].remaining == 0
    assert given.job_now(job.job_id).status == "cancelled"


def test_messages_stay_small_whatever_tasks_carry(given: Given) -> None:
    heavy = "x" * 100_000
    job = given.running_job([TaskPlan(parameters={"heavy": heavy}, callback_url="https://example.org/cb")] * 3)
    for index in range(3):
        given.complete(job.job_id, index, result={"success": True, "heavy": heavy})
    kinds = {type(message).__name__ for message in given.messages()}
    assert kinds == {"JobMessage", "TaskMessage", "StageComplete", "TaskEnded"}
    assert max(len(encode(message)) for message in given.messages()) < 1024
    assert given.state.stage_results(job.job_id, 1)[0].result_data == {"success": True, "heavy": heavy}
