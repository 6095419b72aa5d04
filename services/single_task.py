"""A job of one task of any registered type: what an ad-hoc ``POST /task/start`` makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from core.jobs import ANY_TASK, JobDefinition, JobParameters, Stage
from core.records import RunsOn, TaskPlan, TaskResult


class SingleTask(JobParameters):
    """Parameters of ``single_task``."""

    task_type: str = Field(min_length=1, max_length=100, description="The handler to run.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Its parameters.")


class SingleTaskJob(JobDefinition[SingleTask]):
    """One stage, one task."""

    job_type = "single_task"
    description = "Runs one handler as a job of its own."
    parameters = SingleTask
    plans_at_submission = True
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="task", task_type=ANY_TASK, runs_on=RunsOn.DOCKER),)

    def stage(self, number: int, parameters: SingleTask) -> Stage:
        """The stage with the task type that the parameters name."""
        return replace(self.stages[number - 1], task_type=parameters.task_type)

    def plan(self, stage: Stage, parameters: SingleTask, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:  # noqa: ARG002
        """The one task."""
        return [TaskPlan(parameters=parameters.parameters)]

    def finalize(self, parameters: SingleTask, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """The task's own result."""
        return dict(results[0].result_data or {})
