"""Factories: a real machine on an in-memory store and an in-memory bus, running real handlers in this thread."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from core.handlers import HandlerRegistry
from core.jobs import JobRegistry, canonical_json
from core.machine import CoreMachine, MachineOptions
from core.messages import TaskMessage
from core.records import RunsOn
from core.retry import Backoff
from infrastructure.inline_executor import HandlerParts, InlineExecutor
from testing.clock import Clock, ManualClock
from testing.faults import CrashingExecutor, Fault, FaultyCheckpoints, FaultyNetwork
from testing.mock_service_bus import MockServiceBusRepository
from testing.mock_state_manager import MockStateManager
from testing.workbench import FaultDidNotFire, JobRun, Workbench

__test__ = False  # the name is for users; pytest finds no tests here

WORKER_ID = "test-worker"


def create_test_core_machine(
    *,
    jobs: JobRegistry | None = None,
    handlers: HandlerRegistry | None = None,
    services: Mapping[str, Any] | None = None,
    work_root: Path | None = None,
    clock: Clock | None = None,
    faults: Sequence[Fault] = (),
) -> tuple[CoreMachine, MockStateManager, MockServiceBusRepository]:
    """A machine, its store and its bus.

    Args:
        jobs: the job types; all that ship by default.
        handlers: the task types; all that ship by default.
        services: what handlers find in ``context.services``; by default an output directory below ``work_root`` and an
            H3 grid store in memory.
        work_root: where handlers keep temporary files; by default a directory that goes with the machine.
        clock: the store's and the bus's time; real time by default.
        faults: what goes wrong, and where.
    """
    bench = create_workbench(
        jobs=jobs, handlers=handlers, services=services, work_root=work_root, clock=clock or Clock(), faults=faults
    )
    return bench.machine, bench.state, bench.messages


def create_workbench(
    *,
    jobs: JobRegistry | None = None,
    handlers: HandlerRegistry | None = None,
    services: Mapping[str, Any] | None = None,
    work_root: Path | None = None,
    clock: Clock | None = None,
    faults: Sequence[Fault] = (),
) -> Workbench:
    """The same parts on a clock that stands still until it is moved, with steps to drive them by."""
    clock = clock or ManualClock()
    jobs, handlers = _registries(jobs, handlers)
    state = MockStateManager(clock=clock, worker_id=WORKER_ID)
    messages = MockServiceBusRepository(outbox=state, clock=clock, network=FaultyNetwork(faults))
    root = work_root or Path(tempfile.gettempdir(), f"geoworker-test-{uuid.uuid4().hex}")
    checkpoints = FaultyCheckpoints(state, faults)
    parts = HandlerParts(
        handlers=handlers,
        checkpoints=checkpoints if faults else state,
        work_root=root,
        services=DefaultServices(root / "output") if services is None else services,
        item_flush_seconds=0.0 if faults else 1.0,
        progress_seconds=0.0 if faults else 0.5,
    )
    inline = InlineExecutor(parts)
    machine = CoreMachine(
        jobs=jobs,
        handlers=handlers,
        store=state,
        publisher=messages,
        executor=CrashingExecutor(inline, checkpoints) if faults else inline,
        options=MachineOptions(
            worker_id=WORKER_ID,
            lease=timedelta(seconds=60),
            backoff=Backoff(base=timedelta(seconds=5), cap=timedelta(minutes=5)),
        ),
        rng=random.Random(0),  # noqa: S311 - jitter, the same in every run
    )
    if work_root is None:
        weakref.finalize(machine, shutil.rmtree, root, ignore_errors=True)
    return Workbench(machine=machine, state=state, messages=messages, clock=clock, faults=checkpoints)


def setup_single_task_test(
    task_type: str,
    parameters: Mapping[str, Any] | None = None,
    job_type: str = "test_job",
    **options: Any,
) -> tuple[CoreMachine, MockStateManager, MockServiceBusRepository, TaskMessage]:
    """A machine with one job that has one task, and the message that runs it.

    ``machine.process_task_message(message)`` then runs the real handler through its whole life. With a registered
    ``job_type`` the task is in the stage that its type has there.

    Args:
        task_type: the task's type.
        parameters: the handler's parameters; what does not fit them fails the task, as it would in production.
        job_type: what the handler's context says of its job.
        options: those of :func:`create_test_core_machine`.

    Raises:
        UnknownTaskType: when no such handler is registered; the error lists those that are.
    """
    machine, state, messages = create_test_core_machine(**options)
    spec = machine.handlers[task_type]
    suffix = hashlib.sha256(canonical_json([task_type, dict(parameters or {}), job_type]).encode()).hexdigest()[:12]
    job_id, task_id = f"test-job-{suffix}", f"test-task-{suffix}"
    number, total, runs_on = _place(machine.jobs, job_type, spec.task_type)
    state.create_test_job(job_id, job_type, parameters, total_stages=total)
    state.create_test_task(task_id, job_id, spec.task_type, number, parameters, runs_on=runs_on)
    message = TaskMessage(
        task_id=task_id, parent_job_id=job_id, job_type=job_type, task_type=spec.task_type, stage=number
    )
    return machine, state, messages, message


def run_job(job_type: str, parameters: Mapping[str, Any] | None = None, **options: Any) -> JobRun:
    """A whole job to its end: every stage, every retry, on a clock that only this run moves.

    Args:
        job_type: the job's type.
        parameters: the job's parameters.
        options: those of :func:`create_workbench`; ``faults`` for instance.

    Raises:
        UnknownJobType: when no such type is registered.
        InvalidInput: when parameters do not fit; every fault is named.
        JobDidNotEnd: when it has not ended after two days on the clock.
        FaultDidNotFire: when it ended without reaching the place of a fault, which then proved nothing.
    """
    bench = create_workbench(**options)
    try:
        run = bench.finish(bench.submit(job_type, parameters).job_id)
        if bench.faults.unfired:
            raise FaultDidNotFire(bench.faults.unfired)
        return run
    finally:
        bench.close()


class DefaultServices(Mapping[str, Any]):
    """What handlers find by name in tests; each is made when it is first asked for."""

    def __init__(self, output_dir: Path, **others: Any) -> None:
        self._output_dir = output_dir
        self._others = others
        self._grid_store: Any = None

    def __getitem__(self, name: str) -> Any:
        match name:
            case "output_dir":
                return self._output_dir
            case "h3_grid_store":
                if self._grid_store is None:
                    from services.h3.memory_store import InMemoryGridStore

                    self._grid_store = InMemoryGridStore()
                return self._grid_store
            case _:
                return self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("output_dir", "h3_grid_store", *self._others))

    def __len__(self) -> int:
        return 2 + len(self._others)


def _registries(jobs: JobRegistry | None, handlers: HandlerRegistry | None) -> tuple[JobRegistry, HandlerRegistry]:
    """The given registries. Jobs alone go with the handlers that ship; handlers alone with no jobs."""
    from services.registry import handler_registry, job_registry

    if handlers is None:
        return (job_registry() if jobs is None else jobs), handler_registry()
    return (JobRegistry([]) if jobs is None else jobs), handlers


def _place(jobs: JobRegistry, job_type: str, task_type: str) -> tuple[int, int, RunsOn]:
    """The stage, the number of stages and the place of a task type in a job."""
    if job_type not in jobs:
        return 1, 1, RunsOn.DOCKER
    stages = jobs[job_type].stages
    for stage in stages:
        if stage.task_type == task_type:
            return stage.number, len(stages), stage.runs_on
    return 1, len(stages), RunsOn.DOCKER
