"""A whole worker on PostgreSQL, to be killed: ``python chaos_worker.py <database url> <directory>``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import chaos_handlers

from core.handlers import HandlerRegistry, HandlerSpec
from core.heartbeat import HeartbeatOptions
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.machine import CoreMachine, MachineOptions
from core.messages import TaskMessage
from core.records import OutboxEntry, RunsOn, TaskPlan, TaskQuery, TaskResult
from core.retry import Backoff
from core.states import TaskStatus
from core.stopping import StopToken
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.inline_executor import HandlerParts
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from infrastructure.postgres.sweep_store import PostgresSweepStore
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ExecutorOptions, ProcessExecutor
from infrastructure.process_executor.supervision import SupervisionRules
from infrastructure.watchdogs import MemoryWatch
from services.raster import registry as raster_registry

LEASE = timedelta(seconds=1.5)
FAST = Backoff(base=timedelta(milliseconds=10), cap=timedelta(milliseconds=20))


class Items(JobParameters):
    effects: str
    count: int
    seconds: float


class ItemsJob(JobDefinition[Items]):
    job_type = "chaos_items"
    description = "One checkpointed task of many items."
    parameters = Items
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="items", task_type="items", runs_on=RunsOn.DOCKER, max_attempts=30),
    )

    def plan(self, stage: Stage, parameters: Items, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        return [TaskPlan(parameters=parameters.model_dump())]


class AnyParameters(JobParameters):
    """Any handler of the chaos collection, by name."""

    parameters: dict[str, Any]


def _job(task: str, max_attempts: int = 5) -> JobDefinition[Any]:
    class AnyJob(JobDefinition[AnyParameters]):
        job_type = f"chaos_{task}"
        description = f"One task: {task}."
        parameters = AnyParameters
        stages: ClassVar[tuple[Stage, ...]] = (
            Stage(number=1, name=task, task_type=task, runs_on=RunsOn.DOCKER, max_attempts=max_attempts),
        )

        def plan(self, stage: Stage, parameters: AnyParameters, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
            return [TaskPlan(parameters=parameters.parameters)]

    return AnyJob()


_PLAIN = ("hang", "hold_the_gil", "spin", "sleeper", "eat_then_be_modest", "kill_the_worker", "report_then_wait")
_THE_USUAL_ATTEMPTS = 3
JOBS = JobRegistry(
    [
        ItemsJob(),
        *(_job(task, _THE_USUAL_ATTEMPTS if task == "kill_the_worker" else 5) for task in _PLAIN),
        *raster_registry.JOBS,
    ]
)


def _observed(spec: HandlerSpec) -> HandlerSpec:
    return replace(spec, handler=chaos_handlers.raster) if spec.task_type == "process_raster_complete" else spec


HANDLERS = HandlerRegistry(
    [
        HandlerSpec(task_type="items", handler=chaos_handlers.items),
        *(HandlerSpec(task_type=task, handler=getattr(chaos_handlers, task)) for task in _PLAIN),
        *(_observed(spec) for spec in raster_registry.HANDLERS),
    ]
)


class Unpublished:
    """The worker below looks for due tasks itself; hints are not needed (a message is only a hint)."""

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        return


@contextmanager
def parts(arguments: Mapping[str, Any]) -> Iterator[HandlerParts]:
    pool = ConnectionPoolManager(arguments["url"], PoolSettings(min_size=1, max_size=2))
    try:
        yield HandlerParts(
            handlers=HANDLERS,
            checkpoints=PostgresCheckpointStore(Database(pool)),
            work_root=Path(arguments["root"]),
            services={"output_dir": Path(arguments.get("output_dir", arguments["root"]))},
        )
    finally:
        pool.close()


def build(
    url: str, root: str, worker_id: str, memory: MemoryWatch | None = None
) -> tuple[CoreMachine, PostgresSweepStore]:
    database = Database(ConnectionPoolManager(url, PoolSettings(min_size=1, max_size=6)))
    options = StoreOptions(worker_id=worker_id)
    executor = ProcessExecutor(
        ChildSpec(bootstrap="chaos_worker:parts", arguments={"url": url, "root": root}),
        replace(ExecutorOptions(), rules=SupervisionRules(grace=2.0)),
        memory=memory,
    )
    machine = CoreMachine(
        jobs=JOBS,
        handlers=HANDLERS,
        store=PostgresStateStore(database, options),
        publisher=Unpublished(),
        executor=executor,
        options=MachineOptions(
            worker_id=worker_id,
            lease=LEASE,
            heartbeat=HeartbeatOptions(interval=LEASE / 4, poll=LEASE / 8),
            backoff=FAST,
        ),
    )
    return machine, PostgresSweepStore(database, options, backoff=FAST)


def message_for(machine: CoreMachine, job_id: str) -> TaskMessage | None:
    """A hint for a task of the job that waits, as a transport would bring it."""
    for task in machine.store.list_tasks(TaskQuery(job_id=job_id)):
        if task.status in (TaskStatus.PENDING, TaskStatus.QUEUED):
            return TaskMessage(
                task_id=task.task_id,
                parent_job_id=job_id,
                job_type=task.job_type,
                task_type=task.task_type,
                stage=task.stage,
            )
    return None


def main(url: str, root: str, job_id: str) -> None:
    machine, sweeps = build(url, root, f"worker-{os.getpid()}")
    while True:
        sweeps.sweep(limit=100)
        message = message_for(machine, job_id)
        if message is not None:
            machine.run_task(message, stop=StopToken())
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
