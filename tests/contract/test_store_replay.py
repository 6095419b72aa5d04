"""StateStore contract: running an ended job again."""

from __future__ import annotations

import pytest

from core.errors import Conflict, InvalidInput, JobNotFound
from core.jobs import job_run_id, task_id
from core.messages import JobMessage, StageComplete, TaskMessage
from core.records import Checkpoint, Claim, FailurePolicy, TaskPlan
from core.states import JobStatus, TaskStatus
from tests.contract.stores import PERMANENT, TRANSIENT, Given


def test_only_the_latest_ended_run_is_replayed(given: Given) -> None:
    with pytest.raises(JobNotFound):
        given.state.replay_job("nope")
    job = given.running_job(1)
    with pytest.raises(Conflict, match="processing"):
        given.state.replay_job(job.job_id)
    given.fail(job.job_id)
    new, commit = given.state.replay_job(job.job_id, submitted_by="ann")
    assert commit.applied
    assert (new.run, new.replay_of, new.job_id) == (2, job.job_id, job_run_id(job.fingerprint, 2))
    assert (new.parameters, new.job_type, new.submitted_by) == (job.parameters, "demo", "ann")
    with pytest.raises(Conflict, match="followed"):
        given.state.replay_job(job.job_id)
    with pytest.raises(Conflict, match="processing"):
        given.state.replay_job(new.job_id)
    again, commit = given.state.submit_job(given.submission(rerun=True))
    assert (again.job_id, commit.applied) == (new.job_id, False)


def test_a_completed_job_has_nothing_to_do_again(given: Given) -> None:
    job = given.running_job(1)
    given.complete(job.job_id)
    given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED, result={})
    with pytest.raises(Conflict, match="no failed task"):
        given.state.replay_job(job.job_id)


def test_only_what_failed_runs_again(given: Given) -> None:
    job = given.running_job(4, max_attempts=2)
    given.complete(job.job_id, 0, result={"success": True, "i": 0})
    claim = given.claim(job.job_id, 1)
    given.checkpoints.save_checkpoint(claim, Checkpoint(phase=2, data={"half": 1}, cursor={"row": 7}))
    given.checkpoints.save_items(claim, 3, {"tile-1": {"n": 1}})
    running = given.claim(job.job_id, 2)
    given.state.fail_task(claim, PERMANENT, retry_in=None)
    sent = len(given.messages())

    new, _ = given.state.replay_job(job.job_id)
    assert (new.status, new.stage) == (JobStatus.PROCESSING, 1)
    assert new.started_at is not None
    assert new.error_details is new.finished_at is new.result_data is None
    assert given.state.count_tasks(new.job_id) == {1: {"completed": 1, "pending": 3}}
    (stage,) = given.state.list_stages(new.job_id)
    assert (stage.total, stage.remaining, stage.failed, stage.finished_at) == (4, 3, 0, None)
    kept = given.task_now(new.job_id, 0)
    assert kept.result_data == {"success": True, "i": 0}
    for index in (1, 2, 3):
        again = given.task_now(new.job_id, index)
        assert (again.attempt, again.failures, again.max_attempts) == (0, 0, 2)
        assert again.parameters == {"i": index}
        assert again.error_details is again.result_data is again.progress is None
        assert again.started_at is again.finished_at is again.lease_owner is None
        assert given.state.list_attempts(again.task_id) == []
    hints = given.messages()[sent:]
    assert sorted(hint.task_index for hint in hints if isinstance(hint, TaskMessage)) == [1, 2, 3]
    assert len(hints) == 3

    resumed = given.claim(new.job_id, 1)
    assert given.checkpoints.load_checkpoint(resumed) == Checkpoint(phase=2, data={"half": 1}, cursor={"row": 7})
    assert given.checkpoints.load_items(resumed, 3) == {"tile-1": {"n": 1}}
    given.state.complete_task(running, {"success": True})  # the old run's late task changes nothing of the new one
    assert given.task_now(new.job_id, 2).status is TaskStatus.PENDING
    given.state.complete_task(resumed, {"success": True})
    given.complete(new.job_id, 2)
    assert given.complete(new.job_id, 3).last_in_stage


def test_a_collecting_job_goes_back_to_its_first_failure(given: Given) -> None:
    job = given.running_job(2, failure_policy=FailurePolicy.COLLECT, total_stages=2)
    given.fail(job.job_id, 0)
    given.complete(job.job_id, 1)
    given.plan(job.job_id, 1, stage=2)
    given.complete(job.job_id, 0, stage=2)
    given.state.finish_job(job.job_id, stage=2, status=JobStatus.COMPLETED_WITH_ERRORS, result={})
    new, _ = given.state.replay_job(job.job_id)
    assert (new.stage, new.status) == (1, JobStatus.PROCESSING)
    assert given.state.count_tasks(new.job_id) == {1: {"pending": 1, "completed": 1}}
    assert given.complete(new.job_id, 0).last_in_stage
    assert given.plan(new.job_id, 1, stage=2).applied


def test_a_job_that_failed_between_stages_goes_on_where_it_was(given: Given) -> None:
    job = given.running_job(2, total_stages=2)
    given.complete(job.job_id, 0)
    given.complete(job.job_id, 1)
    given.state.fail_job(job.job_id, PERMANENT)  # planning stage 2 raised
    sent = len(given.messages())
    new, _ = given.state.replay_job(job.job_id)
    assert given.state.count_tasks(new.job_id) == {1: {"completed": 2}}
    (signal,) = given.messages()[sent:]
    assert isinstance(signal, StageComplete)
    assert (signal.job_id, signal.completed_stage) == (new.job_id, 1)
    assert given.plan(new.job_id, 1, stage=2).applied


def test_a_job_that_was_never_planned_starts_over(given: Given) -> None:
    job = given.job()
    given.state.cancel_job(job.job_id, reason="r")
    new, _ = given.state.replay_job(job.job_id)
    assert (new.status, new.stage, new.started_at) == (JobStatus.QUEUED, 0, None)
    assert given.messages(JobMessage)[-1] == JobMessage(job_id=new.job_id, job_type="demo")
    assert given.plan(new.job_id, 1).applied


def test_a_job_whose_stage_was_empty_goes_on_after_it(given: Given) -> None:
    job = given.running_job(0, total_stages=2)
    given.state.fail_job(job.job_id, PERMANENT)
    new, _ = given.state.replay_job(job.job_id)
    assert [(stage.stage, stage.total, stage.remaining) for stage in given.state.list_stages(new.job_id)] == [(1, 0, 0)]
    assert given.plan(new.job_id, 1, stage=2).applied


def three_stages(given: Given) -> str:
    """A collecting job at its end: a failure in stage 1, everything else completed."""
    plans = [TaskPlan(parameters={"i": i}) for i in range(2)]
    job = given.running_job(plans, failure_policy=FailurePolicy.COLLECT, total_stages=3, max_attempts=3)
    given.state.fail_task(given.claim(job.job_id, 0), TRANSIENT, retry_in=None)
    given.complete(job.job_id, 1)
    for stage in (2, 3):
        given.plan(job.job_id, 1, stage=stage)
        given.complete(job.job_id, 0, stage=stage, result={"success": True, "stage": stage})
    given.state.finish_job(job.job_id, stage=3, status=JobStatus.COMPLETED_WITH_ERRORS, result={})
    return job.job_id


def test_from_a_stage_on_everything_runs_again_and_the_rest_is_carried_over_whole(given: Given) -> None:
    job_id = three_stages(given)
    sent = len(given.messages())
    new, _ = given.state.replay_job(job_id, from_stage=3)
    assert (new.status, new.stage) == (JobStatus.PROCESSING, 2)
    assert given.state.count_tasks(new.job_id) == {1: {"failed": 1, "completed": 1}, 2: {"completed": 1}}
    first, second = given.state.list_stages(new.job_id)
    assert (first.total, first.remaining, first.failed) == (2, 0, 1)
    assert (second.total, second.remaining, second.failed) == (1, 0, 0)
    assert first.finished_at is not None
    failed = given.task_now(new.job_id, 0)
    assert (failed.error_details, failed.failures, failed.attempt) == (TRANSIENT, 1, 1)
    assert failed.finished_at is not None
    results = given.state.stage_results(new.job_id, 1)
    assert [(result.status, result.error_details) for result in results] == [
        (TaskStatus.FAILED, TRANSIENT),
        (TaskStatus.COMPLETED, None),
    ]
    (signal,) = given.messages()[sent:]
    assert isinstance(signal, StageComplete)
    assert signal.completed_stage == 2
    assert given.plan(new.job_id, 1, stage=3).applied


def test_from_the_first_stage_a_completed_job_starts_over(given: Given) -> None:
    job_id = three_stages(given)
    new, _ = given.state.replay_job(job_id, from_stage=1)
    assert (new.status, new.stage) == (JobStatus.QUEUED, 0)
    assert given.state.list_stages(new.job_id) == []
    assert given.plan(new.job_id, 1).applied
    assert given.task_now(new.job_id).task_id == task_id(new.job_id, 1, 0)


@pytest.mark.parametrize("stage", [-1, 0, 4, 99])
def test_a_stage_that_was_never_reached_is_refused(given: Given, stage: int) -> None:
    with pytest.raises(Conflict, match="reached stage 3"):
        given.state.replay_job(three_stages(given), from_stage=stage)


def test_a_run_can_be_replayed_again(given: Given) -> None:
    job = given.running_job(2)
    given.fail(job.job_id, 0)
    second, _ = given.state.replay_job(job.job_id)
    given.complete(second.job_id, 0)
    given.fail(second.job_id, 1)
    third, _ = given.state.replay_job(second.job_id)
    assert (third.run, third.replay_of) == (3, second.job_id)
    assert given.state.count_tasks(third.job_id) == {1: {"completed": 1, "pending": 1}}
    assert given.complete(third.job_id, 1).last_in_stage


def saved(given: Given, job_id: str, index: int, phase: int, stage: int = 1) -> Claim:
    """A running task with every phase up to ``phase`` saved, and some of the next one."""
    claim = given.claim(job_id, index, stage=stage)
    artifacts = {f"/out/{n}": {"size": n, "sha256": "x", "phase": n} for n in range(1, phase + 1)}
    given.checkpoints.save_checkpoint(
        claim, Checkpoint(phase=phase, data={"upto": phase}, cursor={"row": 5}, artifacts=artifacts)
    )
    for n in range(1, phase + 2):
        given.checkpoints.save_items(claim, n, {f"item-{n}": {"n": n}})
    return claim


def test_from_a_checkpoint_what_did_not_complete_runs_again_from_that_phase(given: Given) -> None:
    job = given.running_job(4, failure_policy=FailurePolicy.COLLECT)
    given.state.complete_task(saved(given, job.job_id, 0, 3), {"success": True})
    given.state.fail_task(saved(given, job.job_id, 1, 3), PERMANENT, retry_in=None)
    given.state.fail_task(saved(given, job.job_id, 2, 1), PERMANENT, retry_in=None)
    given.fail(job.job_id, 3)
    given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED_WITH_ERRORS, result={})
    new, _ = given.state.replay_job(job.job_id, from_checkpoint=2)
    assert given.state.count_tasks(new.job_id) == {1: {"completed": 1, "pending": 3}}

    taken_back = given.claim(new.job_id, 1)
    checkpoint = given.checkpoints.load_checkpoint(taken_back)
    assert (checkpoint.phase, checkpoint.cursor, sorted(checkpoint.artifacts)) == (2, None, ["/out/1", "/out/2"])
    assert checkpoint.data == {"upto": 3}  # phases that run again write over it
    assert [bool(given.checkpoints.load_items(taken_back, n)) for n in (1, 2, 3, 4)] == [True, True, False, False]
    behind = given.claim(new.job_id, 2)  # not as far as that phase: where it was
    checkpoint = given.checkpoints.load_checkpoint(behind)
    assert (checkpoint.phase, checkpoint.cursor) == (1, {"row": 5})
    assert [bool(given.checkpoints.load_items(behind, n)) for n in (1, 2)] == [True, True]
    assert given.checkpoints.load_checkpoint(given.claim(new.job_id, 3)) == Checkpoint()


def test_from_checkpoint_zero_everything_saved_is_forgotten(given: Given) -> None:
    job = given.running_job(1)
    given.state.fail_task(saved(given, job.job_id, 0, 2), PERMANENT, retry_in=None)
    new, _ = given.state.replay_job(job.job_id, from_checkpoint=0)
    claim = given.claim(new.job_id)
    assert given.checkpoints.load_checkpoint(claim) == Checkpoint()
    assert not any(given.checkpoints.load_items(claim, n) for n in (1, 2, 3))


def test_from_a_checkpoint_a_completed_job_does_its_last_saving_stage_again(given: Given) -> None:
    job = given.running_job(1, total_stages=3)
    given.state.complete_task(saved(given, job.job_id, 0, 3), {"success": True})
    given.plan(job.job_id, 2, stage=2)
    given.state.complete_task(saved(given, job.job_id, 0, 2, stage=2), {"success": True, "old": True})
    given.state.complete_task(saved(given, job.job_id, 1, 1, stage=2), {"success": True})
    given.plan(job.job_id, 1, stage=3)
    given.complete(job.job_id, stage=3)
    given.state.finish_job(job.job_id, stage=3, status=JobStatus.COMPLETED, result={})
    new, _ = given.state.replay_job(job.job_id, from_checkpoint=2, submitted_by="ann")
    assert (new.stage, new.status, new.submitted_by) == (2, JobStatus.PROCESSING, "ann")
    assert given.state.count_tasks(new.job_id) == {1: {"completed": 1}, 2: {"pending": 1, "completed": 1}}
    again = given.task_now(new.job_id, 0, stage=2)
    assert (again.result_data, again.attempt, again.checkpoint_phase) == (None, 0, 2)
    assert given.complete(new.job_id, 0, stage=2).last_in_stage
    assert given.plan(new.job_id, 1, stage=3).applied


def test_a_checkpoint_that_nobody_saved_is_refused(given: Given) -> None:
    job = given.running_job(2, failure_policy=FailurePolicy.COLLECT)
    given.state.complete_task(saved(given, job.job_id, 0, 3), {"success": True})
    given.state.fail_task(saved(given, job.job_id, 1, 1), PERMANENT, retry_in=None)
    given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED_WITH_ERRORS, result={})
    with pytest.raises(Conflict, match=r"no checkpoint of phase 2: .* phase 1"):
        given.state.replay_job(job.job_id, from_checkpoint=2)
    with pytest.raises(InvalidInput, match="from_checkpoint: must be 0 or more"):
        given.state.replay_job(job.job_id, from_checkpoint=-1)
    with pytest.raises(InvalidInput, match="together with from_stage"):
        given.state.replay_job(job.job_id, from_checkpoint=1, from_stage=1)
    plain = given.running_job(1, name="b")
    given.complete(plain.job_id)
    given.state.finish_job(plain.job_id, stage=1, status=JobStatus.COMPLETED, result={})
    for phase in (0, 1):
        with pytest.raises(Conflict, match="no task saved any"):
            given.state.replay_job(plain.job_id, from_checkpoint=phase)
