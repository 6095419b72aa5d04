"""StateStore contract: how tasks end, what it does to their stage and their job, and who turns out the lights."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.jobs import task_id
from core.messages import Channel, StageComplete, TaskEnded
from core.records import AttemptOutcome, FailurePolicy, TaskPlan, TaskResult
from core.states import JobStatus, TaskStatus
from tests.contract.conftest import GivenFactory
from tests.contract.stores import PERMANENT, WORKER, Given


def test_the_last_completed_task_completes_its_stage(given: Given) -> None:
    job = given.running_job(3, total_stages=2)
    for index in (2, 0):
        commit = given.complete(job.job_id, index)
        assert commit.applied
        assert not commit.last_in_stage
        assert given.messages(StageComplete) == []
    assert given.state.complete_task(given.claim(job.job_id, 1, worker="w9"), {"success": True}).last_in_stage
    (signal,) = given.messages(StageComplete)
    assert isinstance(signal, StageComplete)
    assert (signal.job_id, signal.job_type, signal.completed_stage) == (job.job_id, "demo", 1)
    assert signal.completed_by == "w9"
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.total, stage.remaining, stage.failed) == (3, 0, 0)
    assert stage.finished_at is not None
    assert given.job_now(job.job_id).status is JobStatus.PROCESSING


def test_a_completed_task_keeps_its_result_and_history(given: Given) -> None:
    job = given.running_job(1)
    given.complete(job.job_id, result={"success": True, "rows": [1, 2], "nested": {"a": None}})
    task = given.task_now(job.job_id)
    assert task.status is TaskStatus.COMPLETED
    assert task.result_data == {"success": True, "rows": [1, 2], "nested": {"a": None}}
    assert task.lease_owner is task.lease_expires_at is task.error_details is None
    assert task.finished_at is not None
    (attempt,) = given.state.list_attempts(task.task_id)
    assert (attempt.attempt, attempt.outcome, attempt.worker_id) == (1, AttemptOutcome.COMPLETED, WORKER)
    assert attempt.started_at == task.started_at
    assert attempt.ended_at == task.finished_at


def test_results_are_read_in_order_of_index_and_only_of_ended_tasks(given: Given) -> None:
    job = given.running_job(3, failure_policy=FailurePolicy.COLLECT)
    given.fail(job.job_id, 2)
    given.complete(job.job_id, 0, result={"success": True, "i": 0})
    assert given.state.stage_results(job.job_id, 1) == [
        TaskResult(
            task_id=task_id(job.job_id, 1, 0),
            task_index=0,
            status=TaskStatus.COMPLETED,
            result_data={"success": True, "i": 0},
            error_details=None,
        ),
        TaskResult(
            task_id=task_id(job.job_id, 1, 2),
            task_index=2,
            status=TaskStatus.FAILED,
            result_data=None,
            error_details=PERMANENT,
        ),
    ]
    assert given.state.stage_results(job.job_id, 2) == []


def test_fail_fast_ends_the_job_and_its_waiting_tasks_at_once(given: Given) -> None:
    job = given.running_job(4)
    running = given.claim(job.job_id, 1)
    given.complete(job.job_id, 3)
    commit = given.fail(job.job_id, 0)
    assert commit.applied
    assert not commit.last_in_stage
    failed = given.job_now(job.job_id)
    assert (failed.status, failed.error_details) == (JobStatus.FAILED, PERMANENT)
    assert failed.finished_at is not None
    assert given.state.count_tasks(job.job_id) == {1: {"failed": 1, "processing": 1, "cancelled": 1, "completed": 1}}
    sibling = given.task_now(job.job_id, 2)
    assert sibling.error_details is not None
    assert sibling.error_details.type == "JobFailed"
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.remaining, stage.failed) == (1, 1)
    assert given.state.heartbeat(running).cancel_requested
    assert given.messages(StageComplete) == []


def test_a_failed_job_is_not_revived_by_a_late_sibling(given: Given) -> None:
    job = given.running_job(2, total_stages=2)
    late = given.claim(job.job_id, 1)
    given.fail(job.job_id, 0)
    assert given.state.complete_task(late, {"success": True}).last_in_stage
    assert given.task_now(job.job_id, 1).status is TaskStatus.COMPLETED
    assert given.job_now(job.job_id).status is JobStatus.FAILED
    assert not given.plan(job.job_id, stage=2).applied
    assert not given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED, result={}).applied


def test_two_failures_of_a_fail_fast_job_keep_the_first_error(given: Given) -> None:
    job = given.running_job(2)
    second = given.claim(job.job_id, 1)
    given.fail(job.job_id, 0)
    other = PERMANENT.__class__(type="Other", message="later", retryable=False)
    given.state.fail_task(second, other, retry_in=None)
    assert given.job_now(job.job_id).error_details == PERMANENT
    assert given.task_now(job.job_id, 1).error_details == other
    assert given.state.list_stages(job.job_id)[0].failed == 2


def test_collect_goes_on_after_a_failure(given: Given) -> None:
    job = given.running_job(3, failure_policy=FailurePolicy.COLLECT)
    given.fail(job.job_id, 0)
    assert given.job_now(job.job_id).status is JobStatus.PROCESSING
    given.complete(job.job_id, 1)
    commit = given.fail(job.job_id, 2)
    assert commit.last_in_stage
    assert len(given.messages(StageComplete)) == 1
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.remaining, stage.failed) == (0, 2)
    assert stage.finished_at is not None
    task = given.task_now(job.job_id, 0)
    assert (task.status, task.failures, task.error_details) == (TaskStatus.FAILED, 1, PERMANENT)


def test_a_task_cancelled_after_its_job_ended_is_counted_out(given: Given) -> None:
    job = given.running_job(2)
    first, second = given.claim(job.job_id, 0), given.claim(job.job_id, 1)
    given.state.cancel_job(job.job_id, reason="enough")
    assert not given.state.cancel_task(first, reason="asked to\x00").last_in_stage
    assert given.state.cancel_task(second, reason="asked to").last_in_stage
    assert given.state.list_stages(job.job_id)[0].remaining == 0
    assert given.messages(StageComplete) == []
    task = given.task_now(job.job_id, 0)
    assert task.status is TaskStatus.CANCELLED
    assert task.error_details is not None
    assert (task.error_details.type, task.error_details.message) == ("TaskCancelled", "asked to\ufffd")
    (attempt,) = given.state.list_attempts(task.task_id)
    assert (attempt.outcome, attempt.reason) == (AttemptOutcome.CANCELLED, "asked to\ufffd")


def test_a_job_that_is_not_cancelled_goes_on_without_a_cancelled_task(given: Given) -> None:
    job = given.running_job(2)
    given.complete(job.job_id, 0)
    assert given.state.cancel_task(given.claim(job.job_id, 1), reason="r").last_in_stage
    assert len(given.messages(StageComplete)) == 1
    assert given.state.list_stages(job.job_id)[0].finished_at is not None


def test_a_task_that_no_transport_can_deliver_fails(given: Given) -> None:
    job = given.running_job(2)
    commit = given.state.fail_waiting_task(task_id(job.job_id, 1, 0), PERMANENT)
    assert commit.applied
    task = given.task_now(job.job_id, 0)
    assert (task.status, task.attempt, task.failures) == (TaskStatus.FAILED, 0, 1)
    assert task.error_details == PERMANENT
    assert given.state.list_attempts(task.task_id) == []
    assert given.job_now(job.job_id).status is JobStatus.FAILED
    assert not given.state.fail_waiting_task(task.task_id, PERMANENT).applied


def test_a_task_that_runs_or_has_ended_is_not_failed_for_its_delivery(given: Given) -> None:
    job = given.running_job(2)
    given.complete(job.job_id, 0)
    running = given.claim(job.job_id, 1)
    assert not given.state.fail_waiting_task(task_id(job.job_id, 1, 0), PERMANENT).applied
    assert not given.state.fail_waiting_task(task_id(job.job_id, 1, 1), PERMANENT).applied
    assert given.state.complete_task(running, {"success": True}).last_in_stage


def test_an_undeliverable_last_task_of_a_collecting_job_completes_the_stage(given: Given) -> None:
    job = given.running_job(1, failure_policy=FailurePolicy.COLLECT)
    assert given.state.fail_waiting_task(task_id(job.job_id, 1, 0), PERMANENT).last_in_stage
    assert len(given.messages(StageComplete)) == 1


@pytest.mark.parametrize("ending", ["complete", "fail", "cancel", "undeliverable"])
def test_every_ended_task_with_a_callback_address_calls_once(given: Given, ending: str) -> None:
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb")])
    task = given.task_now(job.job_id)
    if ending == "undeliverable":
        given.state.fail_waiting_task(task.task_id, PERMANENT)
    else:
        claim = given.claim(job.job_id)
        for _ in range(2):
            if ending == "complete":
                given.state.complete_task(claim, {"success": True})
            elif ending == "fail":
                given.state.fail_task(claim, PERMANENT, retry_in=None)
            else:
                given.state.cancel_task(claim, reason="r")
    calls = [message for channel, message in given.backend.messages() if channel is Channel.CALLBACKS]
    assert calls == [TaskEnded(task_id=task.task_id, parent_job_id=job.job_id)]


def test_a_retry_and_a_release_call_nobody(given: Given) -> None:
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb")])
    given.state.fail_task(given.claim(job.job_id), PERMANENT, retry_in=timedelta(0))
    given.state.release_task(given.claim(job.job_id), reason="drain")
    assert given.messages(TaskEnded) == []


def test_siblings_cancelled_by_a_failure_call_back_too(given: Given) -> None:
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb") for _ in range(3)])
    given.fail(job.job_id, 1)
    assert {message.task_id for message in given.messages(TaskEnded)} == {  # type: ignore[union-attr]
        task_id(job.job_id, 1, index) for index in range(3)
    }


def test_messages_of_an_ending_are_handed_to_the_process_that_sends_them(make_store: GivenFactory) -> None:
    given = make_store(direct={Channel.JOBS, Channel.CALLBACKS})
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb")])
    commit = given.complete(job.job_id)
    assert {type(entry.message) for entry in commit.messages} == {StageComplete, TaskEnded}
    assert {entry.channel for entry in commit.messages} == {Channel.JOBS, Channel.CALLBACKS}
    held = [message for message in given.send_all() if isinstance(message, StageComplete | TaskEnded)]
    assert held == []


def test_a_released_tasks_hint_is_handed_to_the_process_that_sends_it(make_store: GivenFactory) -> None:
    given = make_store(direct={Channel.DOCKER})
    job = given.running_job(1)
    commit = given.state.release_task(given.claim(job.job_id), reason="drain")
    assert [entry.channel for entry in commit.messages] == [Channel.DOCKER]
    assert given.state.release_task(given.claim(job.job_id), reason="drain").messages
