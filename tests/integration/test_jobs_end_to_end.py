"""Whole jobs on a real PostgreSQL in the embedded mode."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from app.composition import Application
from core.errors import Conflict, InvalidInput, UnknownJobType
from core.records import JobRecord, TaskQuery
from core.states import TERMINAL_JOB_STATUSES, JobStatus, TaskStatus
from infrastructure.postgres.database import Database

Start = Callable[..., Application]


def finished(application: Application, job_id: str, timeout: float = 30) -> JobRecord:
    """The job once it has ended."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        job = application.store.get_job(job_id)
        assert job is not None
        if job.status in TERMINAL_JOB_STATUSES:
            return job
        time.sleep(0.02)
    raise AssertionError(f"{job_id} did not end: {application.store.count_tasks(job_id)}")


@pytest.mark.parametrize("job_type", ["hello_world", "hello_world_docker", "hello_world_triggered"])
def test_hello_world_fans_out_and_in(start_application: Start, job_type: str) -> None:
    application = start_application()
    submitted = application.machine.submit_job(job_type, {"n": 25, "message": "Muraho"})
    job = finished(application, submitted.job.job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.result_data is not None
    assert job.result_data["greeted"] == 25
    assert job.result_data["replies"][7] == "Re: Muraho (7)"
    assert [stage.total for stage in application.store.list_stages(job.job_id)] == [25, 1]


def test_an_empty_fan_out_completes_its_stage(start_application: Start) -> None:
    application = start_application()
    job = finished(application, application.machine.submit_job("hello_world", {"n": 0}).job.job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.result_data == {"greeted": 0, "replies": []}


def test_the_same_submission_is_the_same_job_until_a_rerun_is_asked(start_application: Start) -> None:
    application = start_application()
    first = application.machine.submit_job("hello_world", {"n": 2})
    finished(application, first.job.job_id)
    again = application.machine.submit_job("hello_world", {"message": "Hello, world!", "n": 2})
    assert (again.created, again.job.job_id, again.job.status) == (False, first.job.job_id, JobStatus.COMPLETED)
    rerun = application.machine.submit_job("hello_world", {"n": 2}, rerun=True)
    assert rerun.created
    assert rerun.job.run == 2
    assert rerun.job.job_id != first.job.job_id
    assert finished(application, rerun.job.job_id).status is JobStatus.COMPLETED


def test_transient_failures_are_retried_and_leave_their_history(start_application: Start) -> None:
    application = start_application()
    submitted = application.machine.submit_job("hello_world", {"n": 4, "failure_rate": 0.5})
    job = finished(application, submitted.job.job_id)
    assert job.status is JobStatus.COMPLETED
    tasks = application.store.list_tasks(TaskQuery(job_id=job.job_id, stage=1))
    assert sorted(task.failures for task in tasks) == [0, 0, 1, 1]
    retried = next(task for task in tasks if task.failures)
    history = application.store.list_attempts(retried.task_id)
    assert [attempt.outcome for attempt in history] == ["failed", "completed"]
    assert history[0].error_details is not None
    assert history[0].error_details.type == "TransientError"


def test_unknown_types_and_bad_parameters_are_refused_with_every_fault_named(start_application: Start) -> None:
    application = start_application()
    with pytest.raises(UnknownJobType, match="hello_world"):
        application.machine.submit_job("hello_wrold", {})
    with pytest.raises(InvalidInput) as caught:
        application.machine.submit_job("hello_world", {"n": -1, "failure_rate": 2, "colour": "blue"})
    assert {fault.field for fault in caught.value.faults} == {"n", "failure_rate", "colour"}


def test_a_cancelled_job_starts_no_waiting_task(start_application: Start, database: Database) -> None:
    application = start_application(functions_concurrency=1)
    submitted = application.machine.submit_job("hello_world", {"n": 3000})
    deadline = time.monotonic() + 20
    while not application.store.count_tasks(submitted.job.job_id).get(1, {}).get("completed"):
        assert time.monotonic() < deadline
    application.machine.cancel_job(submitted.job.job_id)
    cancelled = database.row("SELECT clock_timestamp() AS at")
    assert cancelled is not None
    assert application.machine.cancel_job(submitted.job.job_id).status is JobStatus.CANCELLED
    deadline = time.monotonic() + 20
    while any(
        status not in ("completed", "cancelled") for status in application.store.count_tasks(submitted.job.job_id)[1]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    counts = application.store.count_tasks(submitted.job.job_id)[1]
    assert counts["cancelled"] > 0
    assert counts["completed"] + counts["cancelled"] == 3000
    started_after = database.row("SELECT count(*) AS n FROM app.tasks WHERE started_at > %(at)s", cancelled)
    assert started_after is not None
    assert started_after["n"] == 0
    done = application.machine.submit_job("hello_world", {"n": 1}).job.job_id
    finished(application, done)
    with pytest.raises(Conflict, match="completed"):
        application.machine.cancel_job(done)


def test_a_retry_is_a_new_run_that_keeps_what_was_done(start_application: Start, database: Database) -> None:
    application = start_application(functions_concurrency=1)
    submitted = application.machine.submit_job("hello_world", {"n": 500, "message": "again"})
    old_id = submitted.job.job_id
    while not application.store.count_tasks(old_id).get(1, {}).get("completed"):
        time.sleep(0.005)
    application.machine.cancel_job(old_id)
    with pytest.raises(Conflict, match="reached stage"):
        application.machine.retry_job(old_id, from_stage=2)
    run = application.machine.retry_job(old_id)
    assert (run.run, run.replay_of) == (2, old_id)
    job = finished(application, run.job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.result_data is not None
    assert job.result_data["greeted"] == 500
    old = application.store.get_job(old_id)
    assert old is not None
    assert old.status is JobStatus.CANCELLED
    carried = application.store.list_tasks(
        TaskQuery(job_id=run.job_id, stage=1, status=TaskStatus.COMPLETED, limit=500)
    )
    assert len(carried) == 500
    ran_again = database.row(
        "SELECT count(*) AS n FROM app.task_attempts a JOIN app.tasks t USING (task_id) WHERE t.job_id = %(job_id)s",
        {"job_id": run.job_id},
    )
    assert ran_again is not None
    assert 0 < ran_again["n"] <= 500
    with pytest.raises(Conflict, match="already followed"):
        application.machine.retry_job(old_id)
    with pytest.raises(Conflict, match="no failed task"):
        application.machine.retry_job(run.job_id)
    replayed = application.machine.retry_job(run.job_id, from_stage=2)
    assert finished(application, replayed.job_id).status is JobStatus.COMPLETED
