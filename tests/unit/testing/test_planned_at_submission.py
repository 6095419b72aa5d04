"""Jobs whose first stage is planned as they are accepted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pytest

from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.records import TaskPlan, TaskResult
from core.states import JobStatus
from testing import create_workbench
from testing.workbench import Workbench


class Numbers(JobParameters):
    """Parameters of ``double``."""

    number: float | None = None


class DoubleJob(JobDefinition[Numbers]):
    """Doubles a number, and what has come of it; it knows nothing to do without one."""

    job_type = "double"
    parameters = Numbers
    plans_at_submission = True
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="once", task_type="double"),
        Stage(number=2, name="twice", task_type="double"),
    )

    def plan(self, stage: Stage, parameters: Numbers, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        if parameters.number is None:
            raise ValueError("there is no number")
        if parameters.number < 0:
            return [TaskPlan(parameters={"number": math.nan})]
        if stage.number == 1:
            return [TaskPlan(parameters={"number": parameters.number})]
        return [TaskPlan(parameters={"number": (result.result_data or {})["is"]}) for result in previous]


def double(params: dict[str, Any], context: object) -> dict[str, Any]:
    return {"success": True, "is": 2 * params["number"]}


@pytest.fixture
def bench() -> Iterable[Workbench]:
    made = create_workbench(
        jobs=JobRegistry([DoubleJob()]), handlers=HandlerRegistry([HandlerSpec(task_type="double", handler=double)])
    )
    yield made
    made.close()


def sent(bench: Workbench) -> list[str]:
    return [message["message_type"] for message in bench.messages.get_message_summary()]


def test_it_is_processing_at_once_and_no_message_asks_for_its_plan(bench: Workbench) -> None:
    job = bench.submit("double", {"number": 5})
    assert (job.status, job.stage) == (JobStatus.PROCESSING, 1)
    assert sent(bench) == ["task"]
    run = bench.finish(job.job_id)
    assert [task.result_data for task in run.tasks] == [{"success": True, "is": 10}, {"success": True, "is": 20}]
    assert "job" not in sent(bench)


def test_a_plan_that_cannot_be_made_fails_the_job_and_not_its_submission(bench: Workbench) -> None:
    job = bench.submit("double")
    assert (job.status, sent(bench)) == (JobStatus.QUEUED, ["job"])
    ended = bench.finish(job.job_id).job
    assert ended.status is JobStatus.FAILED
    assert ended.error_details is not None
    assert "there is no number" in ended.error_details.message


def test_what_cannot_be_stored_is_not_planned_at_submission(bench: Workbench) -> None:
    assert bench.submit("double", {"number": -1}).status is JobStatus.QUEUED
