"""The smallest real job: stage 1 fans out n greetings, stage 2 gathers the replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from core.docker_context import DockerTaskContext
from core.errors import TransientError
from core.handlers import HandlerSpec
from core.jobs import JobDefinition, JobParameters, Stage
from core.records import RunsOn, TaskPlan, TaskResult


class HelloWorld(JobParameters):
    """Parameters of ``hello_world``."""

    n: int = Field(default=3, ge=0, le=100_000, description="How many greetings fan out.")
    message: str = Field(default="Hello, world!", min_length=1, max_length=1000, description="What each greeting says.")
    failure_rate: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Share of greetings whose first attempt fails, to watch retries."
    )


class Greeting(JobParameters):
    """Parameters of ``hello_world_greeting``."""

    message: str = Field(default="Hello, world!", description="What the greeting says.")
    index: int = Field(default=0, ge=0, description="Which greeting this is.")
    failure_rate: float = Field(default=0.0, ge=0.0, le=1.0, description="Share of first attempts that fail.")


class Reply(JobParameters):
    """Parameters of ``hello_world_reply``."""

    greetings: list[str] = Field(description="The greetings to reply to.")


def greet(params: Greeting, context: DockerTaskContext) -> dict[str, Any]:
    """Say hello. The share ``failure_rate`` of greetings, spread evenly by index, fails at its first attempt."""
    if context.attempt == 1 and (params.index * params.failure_rate) % 1.0 + params.failure_rate >= 1.0:
        raise TransientError(f"greeting {params.index} fails once, as failure_rate={params.failure_rate} asks")
    context.report_progress(100, "greeted")
    return {"success": True, "greeting": f"{params.message} ({params.index})", "index": params.index}


def reply(params: Reply, context: DockerTaskContext) -> dict[str, Any]:
    """Reply to every greeting at once."""
    context.report_progress(100, f"replied to {len(params.greetings)}")
    return {"success": True, "replies": [f"Re: {greeting}" for greeting in params.greetings]}


class HelloWorldJob(JobDefinition[HelloWorld]):
    """Two stages on functions."""

    job_type = "hello_world"
    description = "Fans out n greetings and gathers the replies: a smoke test of the whole machine."
    parameters = HelloWorld
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="greet", task_type="hello_world_greeting", runs_on=RunsOn.FUNCTIONS),
        Stage(number=2, name="reply", task_type="hello_world_reply", runs_on=RunsOn.FUNCTIONS),
    )

    def plan(self, stage: Stage, parameters: HelloWorld, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """One task a greeting, then one that replies to them all."""
        if stage.number == 1:
            return [
                TaskPlan(
                    parameters={
                        "message": parameters.message,
                        "index": index,
                        "failure_rate": parameters.failure_rate,
                    }
                )
                for index in range(parameters.n)
            ]
        return [TaskPlan(parameters={"greetings": [_result(task)["greeting"] for task in previous]})]

    def finalize(self, parameters: HelloWorld, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """How many were greeted, and the replies."""
        replies = [reply for task in results for reply in _result(task)["replies"]]
        return {"greeted": len(replies), "replies": replies}


class HelloWorldDockerJob(HelloWorldJob):
    """The same on the Docker worker, queue-polled."""

    job_type = "hello_world_docker"
    description = "hello_world on the Docker worker: a smoke test of the long-running queue."
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="greet", task_type="hello_world_greeting", runs_on=RunsOn.DOCKER),
        Stage(number=2, name="reply", task_type="hello_world_reply", runs_on=RunsOn.DOCKER),
    )


class HelloWorldTriggeredJob(HelloWorldJob):
    """Greets on functions, replies on the Docker worker."""

    job_type = "hello_world_triggered"
    description = "hello_world with its second stage on the Docker worker: a smoke test of the trigger."
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="greet", task_type="hello_world_greeting", runs_on=RunsOn.FUNCTIONS),
        Stage(number=2, name="reply", task_type="hello_world_reply", runs_on=RunsOn.DOCKER),
    )


def _result(task: TaskResult) -> Mapping[str, Any]:
    return task.result_data or {}


HANDLERS: tuple[HandlerSpec, ...] = (
    HandlerSpec(task_type="hello_world_greeting", handler=greet, parameters=Greeting, description="Says hello."),
    HandlerSpec(task_type="hello_world_reply", handler=reply, parameters=Reply, description="Replies to greetings."),
)
JOBS: tuple[JobDefinition[Any], ...] = (HelloWorldJob(), HelloWorldDockerJob(), HelloWorldTriggeredJob())
