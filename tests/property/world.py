"""A whole system on one store, in one thread: the machine, a network that loses and doubles, and scripted handlers.

Two worlds on different stores that are fed the same steps must look the same after each.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from core.docker_context import DockerTaskContext
from core.errors import ClaimLost, Conflict, ErrorInfo, GeoworkerError
from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.machine import CoreMachine, MachineOptions
from core.messages import Channel, Message, StageComplete, TaskMessage
from core.ports import Execution, Raised, Returned, Stopped
from core.records import (
    Claim,
    Commit,
    FailurePolicy,
    JobQuery,
    NotClaimed,
    OutboxEntry,
    RunsOn,
    TaskPlan,
    TaskQuery,
    TaskResult,
)
from core.retry import Backoff
from core.stopping import StopReason, StopToken
from tests.contract.stores import LEASE, PERMANENT, TRANSIENT, WORKER, Backend

# PostgreSQL's clock goes on within a step of a script, the other stands still. All steps are multiples of this one, so
# that leases and intervals of hints (60 s and its doubles), holds and back-offs end at least 4 s away from any moment
# at which the script looks, and from each other: even on a slow machine both worlds find the same things due.
STEP = timedelta(seconds=28)
PAST_LEASE = 3 * STEP
HOLD = timedelta(seconds=42)
RETRY_IN = timedelta(seconds=48)
ALL = 10_000
AT_ONCE = "c"
"""The name of jobs that are planned at their submission."""


class Chain(JobParameters):
    """Parameters of ``chain``."""

    name: str
    tasks: int
    collect: bool


class ChainJob(JobDefinition[Chain]):
    """Fans out, then one task for each result, then ends."""

    job_type = "chain"
    parameters = Chain
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="out", task_type="work", max_attempts=3),
        Stage(number=2, name="in", task_type="work", runs_on=RunsOn.FUNCTIONS, max_attempts=2),
    )

    def plan(self, stage: Stage, parameters: Chain, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        if stage.number == 1:
            return [
                TaskPlan(parameters={"i": i}, callback_url="https://example.org/cb" if i == 0 else None)
                for i in range(parameters.tasks)
            ]
        return [TaskPlan(parameters={"of": result.task_index}) for result in previous]

    def policy(self, parameters: Chain) -> FailurePolicy:
        return FailurePolicy.COLLECT if parameters.collect else FailurePolicy.FAIL_FAST

    def finalize(self, parameters: Chain, results: Sequence[TaskResult]) -> Mapping[str, Any]:
        return {"ended": len(results)}


class ChainAtOnceJob(ChainJob):
    """The same, planned as it is accepted."""

    job_type = "chain_at_once"
    plans_at_submission = True


class Crash(BaseException):
    """The worker process is killed while a handler runs."""


def _never(params: Mapping[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    raise AssertionError("the executor is scripted")


class ScriptedExecutor:
    """Ends each execution as the current step says."""

    def __init__(self, lose_lease: Callable[[], None]) -> None:
        self.how = "ok"
        self._lose_lease = lose_lease

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        match self.how:
            case "crash":
                raise Crash
            case "transient":
                return Raised(error=TRANSIENT)
            case "permanent":
                return Raised(error=PERMANENT)
            case "drain":
                stop.request(StopReason.DRAIN)
                return Stopped(detail="drained")
            case "lease_lost":
                self._lose_lease()
        return Returned(result={"success": True, "attempt": claim.attempt})

    def close(self) -> None:
        pass


class Silent:
    """Publishes nothing: every message goes by the relay's steps."""

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        pass


@dataclass(frozen=True)
class Seen:
    """What can be observed of a system, moments and ids of messages aside."""

    jobs: Mapping[str, tuple[object, ...]]
    stages: Mapping[tuple[str, int], tuple[object, ...]]
    tasks: Mapping[str, tuple[object, ...]]
    attempts: Mapping[str, Sequence[tuple[object, ...]]]
    messages: Sequence[str]
    network: Sequence[str]


class World:
    """One system."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.network: list[Message] = []
        self.claims: list[Claim] = []
        self.executor = ScriptedExecutor(self.lose_lease)
        self.machine = CoreMachine(
            jobs=JobRegistry([ChainJob(), ChainAtOnceJob()]),
            handlers=HandlerRegistry([HandlerSpec(task_type="work", handler=_never)]),
            store=backend.state,
            publisher=Silent(),
            executor=self.executor,
            options=MachineOptions(worker_id=WORKER, lease=LEASE, backoff=Backoff(base=timedelta(0))),
            rng=random.Random(0),
        )

    def lose_lease(self) -> None:
        self.backend.advance(PAST_LEASE)
        self.backend.sweeps.sweep(limit=ALL)

    def close(self) -> None:
        self.machine.close()

    def tried(self, step: Callable[[], object]) -> str:
        """What a step answered, or the kind of error it raised."""
        try:
            return _answer(step())
        except (Crash, GeoworkerError) as error:
            return type(error).__name__

    def submit(self, name: str, tasks: int, collect: bool, rerun: bool) -> str:
        parameters = {"name": name, "tasks": tasks, "collect": collect}
        job_type = ChainAtOnceJob.job_type if name == AT_ONCE else ChainJob.job_type
        return self.tried(lambda: self.machine.submit_job(job_type, parameters, rerun=rerun).created)

    def relay(self, marked: bool) -> str:
        entries = self.backend.outbox.take(list(Channel), limit=ALL, hold=HOLD)
        self.network += sorted((entry.message for entry in entries), key=text)
        if marked:
            self.backend.outbox.mark_sent([entry.entry_id for entry in entries])
        return str(len(entries))

    def deliver(self, number: int, how: str, keep: bool) -> str:
        message = self.network[number % len(self.network)]
        if not keep:
            self.network.remove(message)
        if message.message_type == "task_ended":
            return "called"
        self.executor.how = how
        return self.tried(lambda: type(self.machine.handle(message)).__name__)

    def lose(self, number: int) -> None:
        self.network.pop(number % len(self.network))

    def give_up(self) -> str:
        """A transport refuses the first due message for good."""
        entries = self.backend.outbox.take([Channel.DOCKER], limit=1, hold=timedelta(0))
        if not entries:
            return "nothing"
        (entry,) = entries
        assert isinstance(entry.message, TaskMessage)
        task_id = entry.message.task_id
        self.backend.outbox.mark_unsent(entry.entry_id, error="refused", retry_in=None)
        error = ErrorInfo(type="Undeliverable", message="refused", retryable=False)
        return self.tried(lambda: self.backend.state.fail_waiting_task(task_id, error))

    def begin(self, number: int) -> str:
        task_ids = sorted(self.see().tasks)
        claim = self.backend.state.claim_task(task_ids[number % len(task_ids)], worker_id="other", lease=LEASE)
        if isinstance(claim, Claim):
            self.claims.append(claim)
        return _answer(claim)

    def end(self, number: int, how: str) -> str:
        claim = self.claims[number % len(self.claims)]
        state = self.backend.state
        steps: Mapping[str, Callable[[], object]] = {
            "complete": lambda: state.complete_task(claim, {"success": True, "attempt": claim.attempt}),
            "fail": lambda: state.fail_task(claim, PERMANENT, retry_in=None),
            "retry": lambda: state.fail_task(claim, TRANSIENT, retry_in=RETRY_IN),
            "release": lambda: state.release_task(claim, reason="drain"),
            "cancel": lambda: state.cancel_task(claim, reason="cancelled"),
            "heartbeat": lambda: state.heartbeat(claim).cancel_requested,
        }
        return self.tried(steps[how])

    def job_ids(self) -> list[str]:
        return sorted(job.job_id for job in self.backend.state.list_jobs(JobQuery(limit=ALL)))

    def cancel(self, number: int) -> str:
        job_ids = self.job_ids()
        job_id = job_ids[number % len(job_ids)]
        return self.tried(lambda: self.machine.cancel_job(job_id).status)

    def retry(self, number: int, from_stage: int | None) -> str:
        job_ids = self.job_ids()
        job_id = job_ids[number % len(job_ids)]
        return self.tried(lambda: self.machine.retry_job(job_id, from_stage=from_stage).job_id)

    def sweep(self) -> str:
        report = self.backend.sweeps.sweep(limit=ALL)
        return str(
            (
                report.leases_expired,
                report.hints_resent,
                report.stages_completed,
                report.jobs_resent,
                report.tasks_cancelled,
                report.pruned,
            )
        )

    def see(self) -> Seen:
        state = self.backend.state
        jobs = state.list_jobs(JobQuery(limit=ALL))
        tasks = state.list_tasks(TaskQuery(limit=ALL))
        return Seen(
            jobs={
                job.job_id: (
                    job.status,
                    job.stage,
                    job.run,
                    job.replay_of,
                    job.result_data,
                    job.error_details,
                    job.finished_at is not None,
                )
                for job in jobs
            },
            stages={
                (stage.job_id, stage.stage): (stage.total, stage.remaining, stage.failed, stage.finished_at is not None)
                for job in jobs
                for stage in state.list_stages(job.job_id)
            },
            tasks={
                task.task_id: (
                    task.job_id,
                    task.stage,
                    task.status,
                    task.attempt,
                    task.failures,
                    task.interruptions,
                    task.lease_owner,
                    task.execute_after is not None,
                    task.result_data,
                    task.error_details,
                    task.finished_at is not None,
                )
                for task in tasks
            },
            attempts={
                task.task_id: [
                    (one.attempt, one.worker_id, one.outcome, one.error_details, one.reason)
                    for one in state.list_attempts(task.task_id)
                ]
                for task in tasks
                if task.attempt
            },
            messages=sorted(text(message) for _, message in self.backend.messages()),
            network=[text(message) for message in self.network],
        )


def text(message: Message) -> str:
    """A message without its moment."""
    if isinstance(message, StageComplete):
        message = message.model_copy(update={"completed_at": None})
    return message.model_dump_json(exclude_none=True)


def _answer(value: object) -> str:
    match value:
        case Claim(attempt=attempt):
            return f"claim {attempt}"
        case NotClaimed(reason=reason):
            return reason
        case Commit(applied=applied, last_in_stage=last):
            return f"applied={applied} last={last}"
        case Conflict() | ClaimLost():
            return type(value).__name__
        case _:
            return str(value)
