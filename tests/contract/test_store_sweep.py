"""SweepStore contract: each step of a pass, and what it must leave alone."""

from __future__ import annotations

from datetime import timedelta

from core.jobs import task_id
from core.messages import Channel, JobMessage, StageComplete, TaskEnded, TaskMessage
from core.records import AttemptOutcome, FailurePolicy, TaskPlan
from core.states import JobStatus, TaskStatus
from tests.contract.conftest import GivenFactory
from tests.contract.stores import HINT, LEASE, MINUTE, PERMANENT, TRANSIENT, Given

LONG = timedelta(hours=3)


def sweep(given: Given, limit: int = 100) -> dict[str, int]:
    """One pass; the counts that are not zero."""
    report = given.sweeps.sweep(limit=limit)
    names = ("leases_expired", "hints_resent", "stages_completed", "jobs_resent", "tasks_cancelled", "pruned")
    return {name: count for name in names if (count := getattr(report, name))}


def test_an_idle_store_is_left_alone(given: Given) -> None:
    assert sweep(given) == {}
    job = given.running_job(1)
    given.complete(job.job_id)
    given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED, result={})
    given.send_all()
    given.advance(LONG)
    assert sweep(given) == {}


def test_an_expired_lease_is_requeued_and_counted_as_a_failure(given: Given) -> None:
    job = given.running_job(1)
    given.send_all()
    given.claim(job.job_id, worker="w1")
    given.advance(LEASE + MINUTE)
    assert sweep(given)["leases_expired"] == 1
    task = given.task_now(job.job_id)
    assert (task.status, task.failures, task.lease_owner) == (TaskStatus.QUEUED, 1, None)
    assert task.error_details is not None
    assert (task.error_details.type, task.error_details.retryable) == ("LeaseExpired", True)
    assert "w1" in task.error_details.message
    (attempt,) = given.state.list_attempts(task.task_id)
    assert (attempt.outcome, attempt.worker_id) == (AttemptOutcome.LEASE_EXPIRED, "w1")
    assert attempt.error_details == task.error_details
    assert [message.attempt for message in given.send_all() if isinstance(message, TaskMessage)] == [1]
    assert sweep(given) == {}


def test_a_task_that_kills_its_worker_does_not_do_so_for_ever(given: Given) -> None:
    job = given.running_job(2, max_attempts=3)
    for attempt in (1, 2, 3):
        assert given.claim(job.job_id).attempt == attempt
        given.advance(LEASE + MINUTE)
        assert sweep(given)["leases_expired"] == 1
        given.advance(MINUTE)
    task = given.task_now(job.job_id)
    assert (task.status, task.failures) == (TaskStatus.FAILED, 3)
    assert task.error_details is not None
    assert not task.error_details.retryable
    assert [attempt.outcome for attempt in given.state.list_attempts(task.task_id)] == [
        AttemptOutcome.LEASE_EXPIRED
    ] * 3
    assert given.job_now(job.job_id).status is JobStatus.FAILED
    assert given.task_now(job.job_id, 1).status is TaskStatus.CANCELLED


def test_a_lease_that_ends_a_collecting_jobs_stage_completes_it(given: Given) -> None:
    plans = [TaskPlan(parameters={}, max_attempts=1, callback_url="https://example.org/cb")]
    job = given.running_job(plans, failure_policy=FailurePolicy.COLLECT)
    given.claim(job.job_id)
    given.advance(LEASE + MINUTE)
    sweep(given)
    assert len(given.messages(StageComplete)) == len(given.messages(TaskEnded)) == 1
    assert given.state.list_stages(job.job_id)[0].failed == 1


def test_messages_of_a_sweep_are_not_held_back(make_store: GivenFactory) -> None:
    given = make_store(direct=set(Channel))
    plans = [TaskPlan(parameters={}, max_attempts=1, callback_url="https://example.org/cb")]
    job = given.running_job(plans, failure_policy=FailurePolicy.COLLECT)
    given.claim(job.job_id)
    given.advance(LEASE + MINUTE)
    given.send_all()
    sweep(given)
    assert {type(message) for message in given.send_all()} == {StageComplete, TaskEnded}


def test_an_expired_lease_of_an_ended_job_is_cancelled(given: Given) -> None:
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb")])
    given.claim(job.job_id)
    given.state.cancel_job(job.job_id, reason="r")
    given.advance(LEASE + MINUTE)
    assert sweep(given) == {"leases_expired": 1}
    task = given.task_now(job.job_id)
    assert task.status is TaskStatus.CANCELLED
    assert task.error_details is not None
    assert task.error_details.type == "LeaseExpired"
    assert given.state.list_stages(job.job_id)[0].remaining == 0
    assert len(given.state.list_attempts(task.task_id)) == 1
    assert len(given.messages(TaskEnded)) == 1
    assert given.messages(StageComplete) == []


def test_a_lost_hint_is_sent_again_and_spends_no_attempt(given: Given) -> None:
    job = given.running_job(2)
    given.send_all()
    assert sweep(given) == {}
    given.advance(HINT + timedelta(seconds=10))
    assert sweep(given) == {"hints_resent": 2}
    resent = given.send_all()
    assert sorted(message.task_index for message in resent if isinstance(message, TaskMessage)) == [0, 1]
    task = given.task_now(job.job_id)
    assert (task.attempt, task.failures, task.status) == (0, 0, TaskStatus.QUEUED)


def test_hints_are_sent_again_in_the_order_of_their_tasks(given: Given) -> None:
    given.running_job(300)
    given.send_all()
    given.advance(HINT + timedelta(seconds=10))
    assert sweep(given, limit=1000) == {"hints_resent": 300}
    resent = [message for message in given.messages(TaskMessage)[300:] if isinstance(message, TaskMessage)]
    assert [message.task_index for message in resent] == list(range(300))


def test_the_interval_of_hints_doubles_up_to_an_hour(given: Given) -> None:
    given.running_job(1)
    given.send_all()
    slack = timedelta(seconds=10)
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        given.advance(timedelta(minutes=minutes) - slack)
        assert sweep(given) == {}
        given.advance(2 * slack)
        assert sweep(given) == {"hints_resent": 1}
        assert len(given.send_all()) == 1


def test_a_hint_that_is_still_to_be_sent_is_not_doubled(given: Given) -> None:
    given.running_job(1)
    given.advance(LONG)
    assert sweep(given) == {}
    assert len(given.messages(TaskMessage)) == 1


def test_a_hint_that_was_given_up_is_sent_again(given: Given) -> None:
    given.running_job(1)
    (entry,) = [
        entry
        for entry in given.outbox.take(["jobs", "docker"], limit=10, hold=MINUTE)  # type: ignore[list-item]
        if isinstance(entry.message, TaskMessage)
    ]
    given.outbox.mark_unsent(entry.entry_id, error="gone", retry_in=None)
    given.advance(LONG)
    assert sweep(given)["hints_resent"] == 1


def test_a_task_that_waits_for_its_retry_gets_no_hint(given: Given) -> None:
    job = given.running_job(1)
    given.send_all()
    given.state.fail_task(given.claim(job.job_id), TRANSIENT, retry_in=timedelta(minutes=30))
    given.advance(timedelta(minutes=29))
    assert sweep(given) == {}
    assert given.send_all() == []
    given.advance(timedelta(seconds=90))
    assert len(given.send_all()) == 1
    assert sweep(given) == {}
    given.advance(HINT)
    assert sweep(given) == {"hints_resent": 1}


def test_a_running_task_gets_no_hint(given: Given) -> None:
    job = given.running_job(1)
    given.send_all()
    claim = given.claim(job.job_id)
    for _ in range(5):
        given.advance(LEASE - timedelta(seconds=10))
        given.state.heartbeat(claim)
        assert sweep(given) == {}


def test_a_job_that_was_never_planned_is_hinted_again(given: Given) -> None:
    job = given.job()
    given.send_all()
    given.advance(HINT + timedelta(seconds=10))
    assert sweep(given) == {"jobs_resent": 1}
    assert given.send_all() == [JobMessage(job_id=job.job_id, job_type="demo")]
    given.advance(HINT)
    assert sweep(given) == {}
    given.advance(HINT + timedelta(seconds=10))
    assert sweep(given) == {"jobs_resent": 1}


def test_a_complete_stage_that_nothing_followed_is_signalled_again(given: Given) -> None:
    job = given.running_job(1, total_stages=2)
    given.complete(job.job_id)
    given.send_all()
    given.advance(HINT + timedelta(seconds=10))
    assert sweep(given) == {"stages_completed": 1}
    (signal,) = given.send_all()
    assert isinstance(signal, StageComplete)
    assert (signal.job_id, signal.completed_stage) == (job.job_id, 1)
    given.plan(job.job_id, 1, stage=2)
    given.send_all()
    given.claim(job.job_id, 0, stage=2)
    given.advance(LEASE - timedelta(seconds=10))
    assert sweep(given) == {}


def test_a_stage_that_has_just_completed_is_given_time(given: Given) -> None:
    job = given.running_job(1, total_stages=2)
    given.send_all()
    claim = given.claim(job.job_id)
    for _ in range(3):
        given.advance(LEASE - timedelta(seconds=10))
        given.state.heartbeat(claim)
    given.state.complete_task(claim, {"success": True})
    given.send_all()
    assert sweep(given) == {}


def test_waiting_tasks_of_ended_jobs_are_cancelled(given: Given) -> None:
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb"), TaskPlan(parameters={})])
    first, second = given.claim(job.job_id, 0), given.claim(job.job_id, 1)
    given.state.fail_job(job.job_id, PERMANENT)
    given.state.release_task(first, reason="drain")
    given.state.fail_task(second, TRANSIENT, retry_in=MINUTE)
    assert sweep(given) == {"tasks_cancelled": 2}
    assert given.state.count_tasks(job.job_id) == {1: {"cancelled": 2}}
    assert given.state.list_stages(job.job_id)[0].remaining == 0
    assert [message.task_id for message in given.messages(TaskEnded)] == [task_id(job.job_id, 1, 0)]  # type: ignore[union-attr]
    for index in (0, 1):
        task = given.task_now(job.job_id, index)
        assert task.error_details is not None
        assert task.error_details.message == "cancelled: its job is failed"
        assert task.finished_at is not None
    assert sweep(given) == {}


def test_a_pass_does_no_more_than_its_limit(given: Given) -> None:
    job = given.running_job(5)
    for index in range(5):
        given.claim(job.job_id, index)
    given.advance(LEASE + MINUTE)
    assert sweep(given, limit=2)["leases_expired"] == 2
    assert sweep(given, limit=2)["leases_expired"] == 2
    assert sweep(given, limit=2)["leases_expired"] == 1


def test_old_sent_messages_are_pruned_and_unsent_ones_kept(given: Given) -> None:
    given.job("a")
    given.send_all()
    given.job("b")
    given.advance(timedelta(days=6))
    assert "pruned" not in sweep(given)
    given.advance(timedelta(days=2))
    assert sweep(given)["pruned"] == 1
    assert given.outbox.next_due(["jobs"]) is not None  # type: ignore[list-item]
