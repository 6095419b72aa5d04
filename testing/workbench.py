"""A whole system in memory on a clock of its own: submit a job, run it to its end, look at everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from core.errors import GeoworkerError
from core.machine import CoreMachine
from core.messages import Channel
from core.outcome import Interrupted, Outcome
from core.records import AttemptRecord, JobRecord, StageRecord, TaskQuery, TaskRecord
from core.states import TERMINAL_JOB_STATUSES, JobStatus, TaskStatus
from core.stopping import StopToken
from testing.clock import Clock
from testing.faults import Fault, FaultyCheckpoints, WorkerCrashed
from testing.mock_service_bus import MockServiceBusRepository
from testing.mock_state_manager import MockStateManager
from transports.base import Delivery, DeliveryLost
from transports.in_memory import InMemoryQueue, InMemorySource
from transports.settlement import settlement_for

_ALL = 1_000_000_000
_NO_TIME = timedelta(0)
_PASS = timedelta(seconds=31)
_MAX_INTERRUPTIONS = 1000
_CHANNELS = (Channel.JOBS, Channel.FUNCTIONS, Channel.DOCKER)


class JobDidNotEnd(GeoworkerError):
    """A job was still not at its end after a very long time."""


class FaultDidNotFire(GeoworkerError):
    """A job ended before it came to the place of a fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        super().__init__(f"the job ended and these faults never fired: {', '.join(map(repr, faults))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """A job at its end, and all it left behind."""

    job: JobRecord
    stages: list[StageRecord]
    tasks: list[TaskRecord]
    attempts: Mapping[str, Sequence[AttemptRecord]]
    outcomes: list[Outcome | WorkerCrashed]
    state: MockStateManager = field(repr=False)
    messages: MockServiceBusRepository = field(repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether every task of the job completed."""
        return self.job.status is JobStatus.COMPLETED

    @property
    def result(self) -> Mapping[str, Any]:
        """The job's result; empty when it has none."""
        return self.job.result_data or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The wired parts, and steps to drive them by. Deterministic: the same script gives the same run."""

    machine: CoreMachine
    state: MockStateManager
    messages: MockServiceBusRepository
    clock: Clock
    faults: FaultyCheckpoints = field(repr=False)
    outcomes: list[Outcome | WorkerCrashed] = field(default_factory=list)
    _sources: tuple[tuple[InMemoryQueue, InMemorySource], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sources = tuple((self.messages.queue(channel), self.messages.source(channel)) for channel in _CHANNELS)
        object.__setattr__(self, "_sources", sources)

    def submit(self, job_type: str, parameters: Mapping[str, Any] | None = None, *, rerun: bool = False) -> JobRecord:
        """Accept a job; nothing of it has run yet.

        Raises:
            UnknownJobType: when no such type is registered.
            InvalidInput: when parameters do not fit; every fault is named.
        """
        return self.machine.submit_job(job_type, parameters or {}, rerun=rerun).job

    def step(self, *, stop: StopToken | None = None) -> bool:
        """Send what is due and handle one message; False when there was none."""
        self.messages.relay()
        for queue, source in self._sources:
            if queue.empty:
                continue
            delivery = source.receive(_NO_TIME)
            if delivery is not None:
                self._handle(delivery, stop)
                return True
        return False

    def _handle(self, delivery: Delivery, stop: StopToken | None) -> None:
        try:
            outcome = self.machine.handle(delivery.message, stop=stop, renew=delivery.renew)
        except WorkerCrashed as crash:
            self.outcomes.append(crash)
            return
        self.outcomes.append(outcome)
        try:
            delivery.settle(settlement_for(outcome))
        except DeliveryLost:
            return  # it comes again and finds the work done

    def drain(self) -> int:
        """Handle messages until none is left that is due now; returns how many were handled."""
        count = 0
        while self.step():
            count += 1
        return count

    def advance(self, by: timedelta) -> None:
        """Let time pass, then sweep: retries come due, expired leases and lost hints are seen to."""
        self.clock.advance(by)
        self.state.sweep(limit=10_000)

    def finish(self, job_id: str, *, longest: timedelta = timedelta(days=2)) -> JobRun:
        """Run a job to its end, however much time on the clock that takes.

        Raises:
            JobDidNotEnd: when it has not ended after ``longest`` on the clock, or is interrupted for ever.
        """
        give_up_at = self.clock.now() + longest
        interruptions = 0
        while True:
            while self.step():
                interrupted = isinstance(self.outcomes[-1], Interrupted)
                interruptions = interruptions + 1 if interrupted else 0
                if interruptions > _MAX_INTERRUPTIONS:
                    raise JobDidNotEnd(f"a task of job {job_id} is interrupted again and again")
            run = self.look(job_id)
            open_tasks = any(task.status is TaskStatus.PROCESSING for task in run.tasks)
            if run.job.status in TERMINAL_JOB_STATUSES and not open_tasks:
                return run
            if self.clock.now() >= give_up_at:
                raise JobDidNotEnd(f"job {job_id} is still {run.job.status} at stage {run.job.stage} after {longest}")
            due = self.state.next_due(_CHANNELS)
            self.advance(min(_PASS, max(due, timedelta(milliseconds=1))) if due is not None else _PASS)

    def look(self, job_id: str) -> JobRun:
        """A job as it is now, and all it has left behind so far.

        Raises:
            JobNotFound: when there is no such job.
        """
        job = self.state.require_job(job_id)
        tasks = list(self.state.list_tasks(TaskQuery(job_id=job_id, limit=_ALL)))
        return JobRun(
            job=job,
            stages=list(self.state.list_stages(job_id)),
            tasks=tasks,
            attempts={task.task_id: self.state.list_attempts(task.task_id) for task in tasks},
            outcomes=self.outcomes,
            state=self.state,
            messages=self.messages,
        )

    def close(self) -> None:
        """End the machine's threads. Idempotent."""
        self.machine.close()
