"""StateStore contract: submitting, listing, planning, finishing and ending jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from core.errors import IllegalTransition
from core.jobs import job_fingerprint, job_run_id, task_id
from core.messages import Channel, JobMessage, StageComplete, TaskMessage
from core.records import FailurePolicy, JobQuery, RunsOn, TaskPlan, TaskQuery
from core.states import JobStatus, TaskStatus
from tests.contract.conftest import GivenFactory
from tests.contract.stores import MINUTE, PERMANENT, WORKER, Given


def test_a_submitted_job_is_stored_and_its_message_committed_with_it(given: Given) -> None:
    job, commit = given.state.submit_job(given.submission(submitted_by="ann", traceparent="00-1-2-01"))
    assert commit.applied
    assert job.job_id == job.fingerprint == job_fingerprint("demo", {"name": "a"})
    assert (job.status, job.stage, job.run, job.total_stages) == (JobStatus.QUEUED, 0, 1, 1)
    assert (job.submitted_by, job.traceparent, job.parameters) == ("ann", "00-1-2-01", {"name": "a"})
    assert job.created_at == job.updated_at
    assert job.started_at is job.finished_at is None
    assert given.state.get_job(job.job_id) == job
    assert given.messages() == [JobMessage(job_id=job.job_id, job_type="demo", traceparent="00-1-2-01")]


def test_the_same_submission_is_the_same_job(given: Given) -> None:
    job = given.job()
    again, commit = given.state.submit_job(given.submission(submitted_by="somebody else"))
    assert not commit.applied
    assert again == job
    assert len(given.messages()) == 1


def test_a_rerun_makes_a_new_run_only_of_an_ended_job(given: Given) -> None:
    first = given.job()
    same, commit = given.state.submit_job(given.submission(rerun=True))
    assert not commit.applied
    assert same.job_id == first.job_id
    given.state.cancel_job(first.job_id, reason="enough")
    unchanged, commit = given.state.submit_job(given.submission())
    assert (unchanged.status, commit.applied) == (JobStatus.CANCELLED, False)
    second, commit = given.state.submit_job(given.submission(rerun=True))
    assert commit.applied
    assert (second.run, second.job_id) == (2, job_run_id(first.fingerprint, 2))
    assert (second.status, second.fingerprint) == (JobStatus.QUEUED, first.fingerprint)
    latest, commit = given.state.submit_job(given.submission())
    assert (latest.job_id, commit.applied) == (second.job_id, False)


def test_a_job_planned_at_its_submission_is_as_if_it_had_been_planned_later(given: Given) -> None:
    plans = [TaskPlan(parameters={"i": 0}, callback_url="https://example.org/done"), TaskPlan(parameters={"i": 1})]
    plan = given.stage_plan(plans, max_attempts=2, runs_on=RunsOn.FUNCTIONS)
    at_once, commit = given.state.submit_job(given.submission(first_stage=plan, traceparent="00-1-2-01"))
    assert commit.applied
    assert at_once == given.job_now(at_once.job_id)
    assert (at_once.status, at_once.stage) == (JobStatus.PROCESSING, 1)
    assert at_once.started_at is not None
    hints = given.messages()
    assert [type(hint) for hint in hints] == [TaskMessage, TaskMessage]  # no message asks for the plan

    later = given.job("b", traceparent="00-1-2-01")
    given.state.plan_stage(later.job_id, plan)

    def seen(job_id: str) -> tuple[object, ...]:
        (stage,) = given.state.list_stages(job_id)
        tasks = given.state.list_tasks(TaskQuery(job_id=job_id))
        assert [task.task_id for task in tasks] == [task_id(job_id, 1, 0), task_id(job_id, 1, 1)]
        of_job = {"job_id": "", "created_at": None}
        return replace(stage, **of_job), [task._replace(task_id="", updated_at=None, **of_job) for task in tasks]

    assert seen(at_once.job_id) == seen(later.job_id)
    claims = [given.claim(at_once.job_id, index) for index in (0, 1)]
    commits = [given.state.complete_task(claim, {"success": True}) for claim in claims]
    assert [commit.last_in_stage for commit in commits] == [False, True]
    assert [message.job_id for message in given.messages(StageComplete)] == [at_once.job_id]  # type: ignore[union-attr]


def test_a_plan_that_comes_with_a_submission_is_written_once_for_each_run(given: Given) -> None:
    plan = given.stage_plan(2)
    first, _ = given.state.submit_job(given.submission(first_stage=plan))
    again, commit = given.state.submit_job(given.submission(first_stage=given.stage_plan(5)))
    assert (again, commit.applied) == (given.job_now(first.job_id), False)
    assert not given.plan(first.job_id, 3).applied
    assert len(given.state.list_tasks(TaskQuery(job_id=first.job_id))) == 2
    given.state.cancel_job(first.job_id, reason="enough")
    second, commit = given.state.submit_job(given.submission(first_stage=plan, rerun=True))
    assert (second.run, second.status, commit.applied) == (2, JobStatus.PROCESSING, True)
    tasks = given.state.list_tasks(TaskQuery(job_id=second.job_id))
    assert [task.task_id for task in tasks] == [task_id(second.job_id, 1, 0), task_id(second.job_id, 1, 1)]


def test_an_empty_plan_that_comes_with_a_submission_completes_the_stage(given: Given) -> None:
    job, _ = given.state.submit_job(given.submission(first_stage=given.stage_plan(0)))
    (message,) = given.messages()
    assert isinstance(message, StageComplete)
    assert (message.job_id, message.completed_stage) == (job.job_id, 1)
    assert given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED, result={}).applied


def test_unknown_ids_answer_with_nothing(given: Given) -> None:
    assert given.state.get_job("nope") is None
    assert given.state.get_task("nope") is None
    assert given.state.list_stages("nope") == []
    assert given.state.stage_results("nope", 1) == []
    assert given.state.count_tasks("nope") == {}
    assert given.state.list_attempts("nope") == []
    assert not given.plan("nope").applied
    assert not given.state.fail_job("nope", PERMANENT).applied
    assert not given.state.cancel_job("nope", reason="r").applied
    assert not given.state.finish_job("nope", stage=1, status=JobStatus.COMPLETED, result={}).applied
    assert not given.state.fail_waiting_task("nope", PERMANENT).applied
    assert not given.state.claim_task("nope", worker_id=WORKER, lease=MINUTE).known  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a\x00b", "\ud800", "x" * 10_000, "'; DROP TABLE app.jobs; --", "é😀"])
def test_ids_that_no_row_can_have_answer_with_nothing(given: Given, name: str) -> None:
    assert given.state.get_job(name) is None
    assert given.state.get_task(name) is None
    assert given.state.list_jobs(JobQuery(id_prefix=name, job_type=name)) == []


def test_jobs_are_listed_newest_first_in_pages(given: Given) -> None:
    ids = []
    for name in "abcde":
        ids.append(given.job(name).job_id)
        given.advance(MINUTE)
    ids.reverse()
    assert [job.job_id for job in given.state.list_jobs(JobQuery())] == ids
    first = given.state.list_jobs(JobQuery(limit=2))
    assert [job.job_id for job in first] == ids[:2]
    second = given.state.list_jobs(JobQuery(limit=2, before=first[-1].job_id))
    assert [job.job_id for job in second] == ids[2:4]
    last = given.state.list_jobs(JobQuery(limit=2, before=second[-1].job_id))
    assert [job.job_id for job in last] == ids[4:]
    assert given.state.list_jobs(JobQuery(before="nope")) == []


def test_jobs_are_filtered(given: Given) -> None:
    old = given.job("old")
    given.advance(timedelta(hours=1))
    new = given.job("new", job_type="other")
    given.state.cancel_job(old.job_id, reason="r")

    def listed(**query: object) -> list[str]:
        return [job.job_id for job in given.state.list_jobs(JobQuery(**query))]  # type: ignore[arg-type]

    assert listed(status=JobStatus.CANCELLED) == [old.job_id]
    assert listed(status=JobStatus.COMPLETED) == []
    assert listed(job_type="other") == [new.job_id]
    assert listed(id_prefix=new.job_id[:10]) == [new.job_id]
    assert listed(id_prefix="%") == []
    moment = given.job_now(new.job_id).created_at
    assert moment is not None
    assert listed(created_after=moment) == [new.job_id]
    assert listed(created_before=moment) == [old.job_id]
    assert listed(created_after=moment, created_before=moment) == []


def test_a_planned_stage_has_its_tasks_and_one_hint_each(given: Given) -> None:
    job = given.job(traceparent="00-1-2-01")
    plans = [
        TaskPlan(parameters={"i": 0}, callback_url="https://example.org/done"),
        TaskPlan(parameters={"i": 1}, max_attempts=7, timeout_seconds=1.5),
    ]
    commit = given.plan(job.job_id, plans, max_attempts=2, runs_on=RunsOn.FUNCTIONS)
    assert commit.applied
    assert not commit.last_in_stage
    planned = given.job_now(job.job_id)
    assert (planned.status, planned.stage) == (JobStatus.PROCESSING, 1)
    assert planned.started_at is not None
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.stage, stage.name, stage.task_type, stage.runs_on) == (1, "s1", "work", RunsOn.FUNCTIONS)
    assert (stage.total, stage.remaining, stage.failed, stage.finished_at) == (2, 2, 0, None)
    first, second = given.state.list_tasks(TaskQuery(job_id=job.job_id))
    assert [first.task_id, second.task_id] == [task_id(job.job_id, 1, 0), task_id(job.job_id, 1, 1)]
    assert (first.status, first.attempt, first.failures) == (TaskStatus.PENDING, 0, 0)
    assert (first.max_attempts, first.timeout_seconds, first.callback_url) == (2, None, "https://example.org/done")
    assert (second.max_attempts, second.timeout_seconds, second.parameters) == (7, 1.5, {"i": 1})
    assert second.traceparent == "00-1-2-01"
    assert given.state.count_tasks(job.job_id) == {1: {"pending": 2}}
    hints = given.backend.messages()[1:]
    assert {channel for channel, _ in hints} == {Channel.FUNCTIONS}
    assert sorted(message.task_index for _, message in hints if isinstance(message, TaskMessage)) == [0, 1]
    hint = next(message for _, message in hints if isinstance(message, TaskMessage) and message.task_index == 0)
    assert hint == TaskMessage(
        task_id=first.task_id,
        parent_job_id=job.job_id,
        job_type="demo",
        task_type="work",
        stage=1,
        task_index=0,
        attempt=0,
        traceparent="00-1-2-01",
    )


def test_a_stage_is_planned_once(given: Given) -> None:
    job = given.running_job(2)
    before = given.messages()
    assert not given.plan(job.job_id, 5).applied
    assert given.messages() == before
    assert given.state.count_tasks(job.job_id) == {1: {"pending": 2}}


def test_a_stage_is_planned_only_when_the_one_before_it_is_complete(given: Given) -> None:
    job = given.job(total_stages=3)
    assert not given.plan(job.job_id, stage=2).applied
    assert given.plan(job.job_id, 2, stage=1).applied
    given.complete(job.job_id, 0)
    assert not given.plan(job.job_id, stage=2).applied
    given.complete(job.job_id, 1)
    assert not given.plan(job.job_id, stage=3).applied
    assert given.plan(job.job_id, stage=2).applied
    assert not given.plan(job.job_id, stage=2).applied
    assert not given.plan(job.job_id, stage=1).applied
    assert given.job_now(job.job_id).stage == 2


def test_an_ended_job_is_not_planned(given: Given) -> None:
    waiting = given.job("waiting")
    given.state.cancel_job(waiting.job_id, reason="r")
    assert not given.plan(waiting.job_id).applied
    between = given.running_job(1, "between", total_stages=2)
    given.complete(between.job_id)
    given.state.fail_job(between.job_id, PERMANENT)
    assert not given.plan(between.job_id, stage=2).applied


def test_an_empty_plan_completes_its_stage(given: Given) -> None:
    job = given.job(total_stages=2)
    assert given.plan(job.job_id, 0).applied
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.total, stage.remaining) == (0, 0)
    assert stage.finished_at is not None
    (signal,) = given.messages(StageComplete)
    assert isinstance(signal, StageComplete)
    assert (signal.job_id, signal.completed_stage, signal.completed_by) == (job.job_id, 1, WORKER)
    assert signal.completed_at is not None
    assert given.state.stage_results(job.job_id, 1) == []
    assert given.plan(job.job_id, 1, stage=2).applied


def test_ten_thousand_tasks_are_planned_at_once(given: Given) -> None:
    job = given.running_job(10_000)
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.total, stage.remaining) == (10_000, 10_000)
    assert given.state.count_tasks(job.job_id) == {1: {"pending": 10_000}}
    page = given.state.list_tasks(TaskQuery(job_id=job.job_id, offset=9_990, limit=100))
    assert [task.task_index for task in page] == list(range(9_990, 10_000))
    assert len(given.messages(TaskMessage)) == 10_000


def test_what_this_process_sends_itself_is_handed_out_and_held_back_from_relays(make_store: GivenFactory) -> None:
    given = make_store(direct={Channel.JOBS, Channel.DOCKER})
    job, commit = given.state.submit_job(given.submission())
    assert [entry.message for entry in commit.messages] == [JobMessage(job_id=job.job_id, job_type="demo")]
    plan = given.plan(job.job_id, 3)
    assert sorted(entry.message.task_index for entry in plan.messages) == [0, 1, 2]  # type: ignore[union-attr]
    assert all(entry.channel is Channel.DOCKER and entry.tries == 0 and entry.created_at for entry in plan.messages)
    assert given.send_all() == []
    given.advance(timedelta(seconds=11))
    assert len(given.send_all()) == 4


def test_messages_of_other_channels_are_left_to_other_relays(make_store: GivenFactory) -> None:
    given = make_store(direct={Channel.JOBS})
    job = given.job()
    assert list(given.plan(job.job_id, 3).messages) == []
    assert len(given.send_all()) == 3


def test_a_very_large_plan_is_left_to_the_relay(make_store: GivenFactory) -> None:
    given = make_store(direct={Channel.DOCKER})
    job = given.job()
    assert list(given.plan(job.job_id, 2_001).messages) == []
    assert len(given.send_all()) == 2_002


def test_a_job_finishes_after_its_last_stage(given: Given) -> None:
    job = given.running_job(2, total_stages=2)
    finish = given.state.finish_job
    given.complete(job.job_id, 0)
    given.complete(job.job_id, 1)
    assert not finish(job.job_id, stage=1, status=JobStatus.COMPLETED, result={}).applied
    given.plan(job.job_id, 1, stage=2)
    assert not finish(job.job_id, stage=2, status=JobStatus.COMPLETED, result={}).applied
    given.complete(job.job_id, 0, stage=2)
    assert finish(job.job_id, stage=2, status=JobStatus.COMPLETED, result={"sum": 3}).applied
    done = given.job_now(job.job_id)
    assert (done.status, done.result_data) == (JobStatus.COMPLETED, {"sum": 3})
    assert done.finished_at is not None
    assert not finish(job.job_id, stage=2, status=JobStatus.COMPLETED, result={"sum": 4}).applied
    assert given.job_now(job.job_id).result_data == {"sum": 3}


def test_a_job_finishes_with_the_status_it_is_given(given: Given) -> None:
    job = given.running_job(1, failure_policy=FailurePolicy.COLLECT)
    given.fail(job.job_id)
    status = JobStatus.COMPLETED_WITH_ERRORS
    assert given.state.finish_job(job.job_id, stage=1, status=status, result={}).applied
    assert given.job_now(job.job_id).status is status


def test_a_job_cannot_finish_as_something_illegal(given: Given) -> None:
    job = given.running_job(0)
    with pytest.raises(IllegalTransition):
        given.state.finish_job(job.job_id, stage=1, status=JobStatus.QUEUED, result={})
    assert given.job_now(job.job_id).status is JobStatus.PROCESSING


@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_ending_a_job_early_cancels_what_waits_and_tells_what_runs(given: Given, how: str) -> None:
    job = given.running_job(3)
    running = given.claim(job.job_id, 1)

    def end() -> bool:
        if how == "fail":
            return given.state.fail_job(job.job_id, PERMANENT).applied
        return given.state.cancel_job(job.job_id, reason="enough").applied

    assert end()
    ended = given.job_now(job.job_id)
    assert ended.status is {"fail": JobStatus.FAILED, "cancel": JobStatus.CANCELLED}[how]
    assert ended.finished_at is not None
    assert ended.error_details is not None
    assert ended.error_details.message == {"fail": PERMANENT.message, "cancel": "enough"}[how]
    assert given.state.count_tasks(job.job_id) == {1: {"cancelled": 2, "processing": 1}}
    assert given.state.list_stages(job.job_id)[0].remaining == 1
    waited = given.task_now(job.job_id, 0)
    assert waited.error_details == ended.error_details
    assert waited.finished_at is not None
    assert given.state.heartbeat(running).cancel_requested
    assert given.state.check_claim(running).cancel_requested
    assert not end()
    assert given.messages(StageComplete) == []


def test_a_job_that_waits_for_its_plan_can_be_cancelled(given: Given) -> None:
    job = given.job()
    assert given.state.cancel_job(job.job_id, reason="r").applied
    assert given.job_now(job.job_id).status is JobStatus.CANCELLED


def test_callbacks_of_cancelled_tasks_are_sent(given: Given) -> None:
    plans = [TaskPlan(parameters={}, callback_url="https://example.org/cb"), TaskPlan(parameters={})]
    job = given.running_job(plans)
    given.state.cancel_job(job.job_id, reason="r")
    (call,) = [message for channel, message in given.backend.messages() if channel is Channel.CALLBACKS]
    assert call.task_id == task_id(job.job_id, 1, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (JobStatus.COMPLETED, JobStatus.PROCESSING),
        (JobStatus.FAILED, JobStatus.QUEUED),
        (JobStatus.CANCELLED, JobStatus.COMPLETED),
        (JobStatus.PROCESSING, JobStatus.QUEUED),
        (JobStatus.QUEUED, JobStatus.COMPLETED),
    ],
)
def test_an_illegal_change_of_a_job_cannot_be_written(given: Given, before: JobStatus, after: JobStatus) -> None:
    job = given.job() if before is JobStatus.QUEUED else given.running_job(0)
    if before not in (JobStatus.QUEUED, JobStatus.PROCESSING):
        given.backend.force_status("jobs", job.job_id, before)
    with pytest.raises(IllegalTransition):
        given.backend.force_status("jobs", job.job_id, after)
    assert given.job_now(job.job_id).status is before


def test_values_come_back_as_json_keeps_them(given: Given) -> None:
    text = "nul \x00, lone \ud800, pair 😀"
    job = given.running_job([TaskPlan(parameters={"text": text, "tuple": (1, 2), 3: None})])
    task = given.task_now(job.job_id)
    assert task.parameters == {"text": "nul \ufffd, lone \ufffd, pair 😀", "tuple": [1, 2], "3": None}
    given.complete(job.job_id, result={"success": True, "text": text})
    given.state.finish_job(job.job_id, stage=1, status=JobStatus.COMPLETED, result={text: [text]})
    clean = "nul \ufffd, lone \ufffd, pair 😀"
    assert given.task_now(job.job_id).result_data == {"success": True, "text": clean}
    assert given.job_now(job.job_id).result_data == {clean: [clean]}


def test_what_json_cannot_hold_is_refused_and_changes_nothing(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            given.state.complete_task(claim, {"success": True, "x": bad})
    with pytest.raises(TypeError):
        given.state.complete_task(claim, {"success": True, "x": object()})
    assert given.task_now(job.job_id).status is TaskStatus.PROCESSING
