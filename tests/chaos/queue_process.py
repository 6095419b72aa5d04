"""The real command line with the jobs of the queue's chaos tests: ``python queue_process.py worker --port 0``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import chaos_handlers

from core.docker_context import DockerTaskContext
from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.records import RunsOn, TaskPlan, TaskResult
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.inline_executor import HandlerParts
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database


class Fan(JobParameters):
    """Parameters of the jobs here. ``name`` tells one run from another."""

    name: str
    count: int = 1
    seconds: float = 0.0


def pause(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    """Wait; note that it ran to its end."""
    time.sleep(params["seconds"])
    return {"success": True, "index": params["index"], "attempt": context.attempt}


def _fan(name: str, task: str) -> JobDefinition[Any]:
    class FanJob(JobDefinition[Fan]):
        job_type = name
        description = f"Fans out tasks: {task}."
        parameters = Fan
        stages: ClassVar[tuple[Stage, ...]] = (
            Stage(number=1, name="fan", task_type=task, runs_on=RunsOn.DOCKER, max_attempts=50),
        )

        def plan(self, stage: Stage, parameters: Fan, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
            return [
                TaskPlan(parameters={"index": index, "seconds": parameters.seconds})
                for index in range(parameters.count)
            ]

    return FanJob()


JOBS = JobRegistry([_fan("queue_fan", "pause"), _fan("queue_gil", "hold_the_gil")])
HANDLERS = HandlerRegistry(
    [
        HandlerSpec(task_type="pause", handler=pause),
        HandlerSpec(task_type="hold_the_gil", handler=chaos_handlers.hold_the_gil),
    ]
)


@contextmanager
def parts(arguments: Mapping[str, Any]) -> Iterator[HandlerParts]:
    """What a child process runs handlers with."""
    pool = ConnectionPoolManager(arguments["conninfo"], PoolSettings(min_size=1, max_size=2))
    try:
        yield HandlerParts(
            handlers=HANDLERS,
            checkpoints=PostgresCheckpointStore(Database(pool)),
            work_root=Path(arguments["work_root"]),
            services={},
        )
    finally:
        pool.close()


def main() -> None:
    from app import child, composition
    from app.cli import main as command_line

    composition.job_registry = lambda: JOBS
    composition.handler_registry = lambda: HANDLERS
    child.BOOTSTRAP = "queue_process:parts"
    command_line()


if __name__ == "__main__":
    main()
