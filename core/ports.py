"""What the machine asks of the outside. Adapters implement these; each has one contract suite in ``tests/contract``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from core.errors import ErrorInfo
from core.messages import Channel
from core.records import (
    AttemptRecord,
    Checkpoint,
    Claim,
    ClaimSignal,
    Commit,
    JobQuery,
    JobRecord,
    JobSubmission,
    NotClaimed,
    OutboxEntry,
    Progress,
    StagePlan,
    StageRecord,
    SweepReport,
    TaskQuery,
    TaskRecord,
    TaskResult,
)
from core.states import JobStatus
from core.stopping import StopToken


class StateStore(Protocol):
    """Jobs and tasks. Every method is one atomic step, guarded by the state it leaves and safe to repeat.

    Methods that cause messages write them to the outbox in the same transaction and return them in the Commit.
    All raise :class:`~core.errors.StoreUnavailable` when the store cannot be reached; those that take a claim raise
    :class:`~core.errors.ClaimLost` when its attempt is stale.
    """

    def submit_job(self, submission: JobSubmission) -> tuple[JobRecord, Commit]:
        """Create the job, or return the latest run of the same fingerprint (``applied`` False) unless a rerun is asked.

        A rerun while a run of that fingerprint is active returns the active run. A new run whose first stage is given
        is processing from the start: its tasks' messages are written instead of the job's.
        """
        ...

    def replay_job(
        self,
        job_id: str,
        *,
        from_stage: int | None = None,
        from_checkpoint: int | None = None,
        submitted_by: str | None = None,
    ) -> tuple[JobRecord, Commit]:
        """Continue an ended job as a new run of the same fingerprint.

        Without ``from_stage`` and ``from_checkpoint`` every completed task is carried over with its result and the
        others run again, each at its checkpoint. With ``from_stage`` the stages before it are carried over whole.

        With ``from_checkpoint`` the tasks that did not complete run again with their checkpoints taken back to that
        phase (0: to nothing): the cursor, items and artifacts of later phases are forgotten, and a checkpoint that is
        not as far stays. When every task completed, the last stage with a checkpoint of that phase is done again by
        the tasks that saved it.

        Raises JobNotFound; InvalidInput when both are given; Conflict while the job runs, when nothing is left to do
        again, when ``from_stage`` was never reached, or when no task to run again has saved ``from_checkpoint``.
        """
        ...

    def get_job(self, job_id: str) -> JobRecord | None: ...

    def list_jobs(self, query: JobQuery) -> Sequence[JobRecord]: ...

    def list_stages(self, job_id: str) -> Sequence[StageRecord]: ...

    def plan_stage(self, job_id: str, plan: StagePlan) -> Commit:
        """Write the stage and its tasks, once: the job must be at ``plan.stage - 1`` with no task of it remaining."""
        ...

    def stage_results(self, job_id: str, stage: int) -> Sequence[TaskResult]:
        """The ended tasks of a stage in order of index."""
        ...

    def finish_job(self, job_id: str, *, stage: int, status: JobStatus, result: Mapping[str, Any]) -> Commit:
        """End a processing job whose last stage, ``stage``, is complete."""
        ...

    def fail_job(self, job_id: str, error: ErrorInfo) -> Commit:
        """End a job that has not ended; its waiting tasks are cancelled."""
        ...

    def cancel_job(self, job_id: str, *, reason: str) -> Commit:
        """Cancel a job that has not ended: waiting tasks never start, running ones learn it by their heartbeat."""
        ...

    def get_task(self, task_id: str) -> TaskRecord | None: ...

    def list_tasks(self, query: TaskQuery) -> Sequence[TaskRecord]: ...

    def count_tasks(self, job_id: str) -> Mapping[int, Mapping[str, int]]:
        """How many tasks of each status, by stage."""
        ...

    def list_attempts(self, task_id: str) -> Sequence[AttemptRecord]: ...

    def claim_task(self, task_id: str, *, worker_id: str, lease: timedelta) -> Claim | NotClaimed:
        """Start an attempt at a waiting, due task of a processing job. Raises the fencing token."""
        ...

    def heartbeat(self, claim: Claim) -> ClaimSignal:
        """Extend the lease by ``claim.lease`` from now (the store's clock)."""
        ...

    def check_claim(self, claim: Claim) -> ClaimSignal:
        """What :meth:`heartbeat` would say, without writing."""
        ...

    def complete_task(self, claim: Claim, result: Mapping[str, Any]) -> Commit:
        """End the task as completed, count it, and when it was its stage's last, write the StageComplete."""
        ...

    def fail_task(self, claim: Claim, error: ErrorInfo, *, retry_in: timedelta | None) -> Commit:
        """Record a failed attempt: queue the task again after ``retry_in``, or end it (None) by the job's policy."""
        ...

    def release_task(self, claim: Claim, *, reason: str) -> Commit:
        """Give an interrupted task back at once; counts no failure."""
        ...

    def cancel_task(self, claim: Claim, *, reason: str) -> Commit:
        """End a running task of a job that no longer wants it."""
        ...

    def fail_waiting_task(self, task_id: str, error: ErrorInfo) -> Commit:
        """End a task that no transport can deliver; ``applied`` False when it no longer waits."""
        ...


class CheckpointStore(Protocol):
    """What running tasks save. Every write is fenced by the claim and raises ClaimLost when it is stale."""

    def load_checkpoint(self, claim: Claim) -> Checkpoint: ...

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None: ...

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]: ...

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Add finished items; one already there keeps what it had."""
        ...

    def clear_checkpoint(self, claim: Claim) -> None: ...

    def save_progress(self, claim: Claim, progress: Progress) -> None: ...


class OutboxStore(Protocol):
    """Committed messages on their way out."""

    def take(self, channels: Iterable[Channel], *, limit: int, hold: timedelta) -> Sequence[OutboxEntry]:
        """Due, unsent entries of these channels, hidden from other relays for ``hold``."""
        ...

    def mark_sent(self, entry_ids: Sequence[int]) -> None:
        """Record entries as sent; tasks whose hints they were go from pending to queued."""
        ...

    def mark_unsent(self, entry_id: int, *, error: str, retry_in: timedelta | None) -> None:
        """Record a failed send: due again after ``retry_in``, or given up (None) and visible as undelivered."""
        ...

    def next_due(self, channels: Iterable[Channel]) -> timedelta | None:
        """How long until the next unsent entry is due (zero or less: now); None when there is none."""
        ...


class SweepStore(Protocol):
    """The sweeper's steps, each a guarded statement safe to run in several processes at once."""

    def sweep(self, *, limit: int) -> SweepReport:
        """One ordered pass: expired leases requeued or failed, lost hints sent again, what was left behind moved on."""
        ...


class MessagePublisher(Protocol):
    """Sends committed messages. Never fails the caller: what cannot be sent now stays in the outbox."""

    def publish(self, entries: Sequence[OutboxEntry]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The handler returned."""

    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The handler raised, broke its contract, or its process died; ``error`` has the true cause."""

    error: ErrorInfo
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The handler did not listen to a stop and was ended."""

    detail: str


Execution = Returned | Raised | Stopped


class TaskExecutor(Protocol):
    """Runs a claimed task's handler to an :data:`Execution`. Never raises for what the handler does."""

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        """Run the handler. ``deadline`` is on this machine's clock, for the timeout only; leases are the store's."""
        ...

    def close(self) -> None:
        """Let go of what the executor holds (child processes). Idempotent."""
        ...
