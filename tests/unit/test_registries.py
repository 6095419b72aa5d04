"""A process whose jobs, handlers and routes do not fit together refuses to start, and names every stage at fault."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pytest

from core.errors import ConfigurationError
from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage, check_registries
from core.messages import Channel
from core.records import RunsOn, TaskPlan, TaskResult


def job(name: str, *stages: Stage) -> JobDefinition[Any]:
    class Job(JobDefinition[JobParameters]):
        job_type: ClassVar[str] = name
        parameters = JobParameters

        def plan(self, stage: Stage, parameters: JobParameters, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
            return []

    Job.stages = stages
    return Job()


WORK = HandlerRegistry([HandlerSpec(task_type="work", handler=lambda params, context: {"success": True})])


def test_every_stage_at_fault_is_named() -> None:
    jobs = JobRegistry(
        [
            job("good", Stage(number=1, name="a", task_type="work")),
            job("empty"),
            job("misnumbered", Stage(number=2, name="b", task_type="work")),
            job("homeless", Stage(number=1, name="c", task_type="nobody")),
            job("unroutable", Stage(number=1, name="d", task_type="work", runs_on=RunsOn.FUNCTIONS)),
        ],
        aliases={"nick": "nothing"},
    )
    with pytest.raises(ConfigurationError) as caught:
        check_registries(jobs, WORK, frozenset({Channel.DOCKER}))
    faults = [str(fault) for fault in caught.value.faults]
    assert faults == [
        "empty: has no stages",
        "misnumbered: stages must be numbered 1, 2, 3, …",
        "homeless stage 1 (c): no handler for task type 'nobody'",
        "unroutable stage 1 (d): no route to functions",
        "nick: alias of unknown job type 'nothing'",
    ]


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="registered twice"):
        JobRegistry([job("a"), job("a")])
    with pytest.raises(ConfigurationError, match="registered twice"):
        HandlerRegistry([*WORK.values(), *WORK.values()])
