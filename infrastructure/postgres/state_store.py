"""Jobs and tasks on PostgreSQL. Every change is one statement, guarded by the state it leaves."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

from core.errors import ClaimLost, Conflict, ErrorInfo, JobNotFound
from core.jobs import job_run_id
from core.messages import Channel
from core.records import (
    AttemptRecord,
    Claim,
    ClaimSignal,
    Commit,
    JobQuery,
    JobRecord,
    JobSubmission,
    NotClaimed,
    OutboxEntry,
    StagePlan,
    StageRecord,
    TaskQuery,
    TaskRecord,
    TaskResult,
)
from core.replay import check_grain, no_such_checkpoint
from core.states import TERMINAL_JOB_STATUSES, JobStatus
from infrastructure.postgres import rows
from infrastructure.postgres.database import Connection, Database
from infrastructure.postgres.job_filters import list_jobs
from infrastructure.postgres.jsonb import dumps, jsonb
from infrastructure.postgres.queries import queries
from infrastructure.postgres.task_steps import ClaimStep, CompleteStep, TaskSteps

_MAX_DIRECT_ENTRIES = 2_000  # a larger fan-out is left to the relay's batches
_UNPLANNED: Mapping[str, Any] = {
    **dict.fromkeys(("stage", "name", "task_type", "runs_on", "total", "tasks")),
    "hold": timedelta(0),
    "want_entries": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What the store must know of the process it serves.

    ``direct`` are the channels whose messages this process sends itself right after the commit: their entries are held
    back from other relays for ``hold``. ``hint_interval`` is how long a hint may go unanswered before it is sent again.
    """

    worker_id: str
    direct: frozenset[Channel] = frozenset()
    hold: timedelta = timedelta(seconds=10)
    hint_interval: timedelta = timedelta(seconds=60)

    def hold_for(self, channel: Channel) -> timedelta:
        """How long a new entry of that channel is held for this process."""
        return self.hold if channel in self.direct else timedelta(0)


class PostgresStateStore:
    """The StateStore port on PostgreSQL."""

    def __init__(self, database: Database, options: StoreOptions) -> None:
        self._db = database
        self._options = options
        self._jobs = queries("jobs")
        self._tasks = queries("tasks")
        self._replay = queries("replay")
        self._common: dict[str, Any] = {
            "hint_interval": options.hint_interval,
            "hold_jobs": options.hold_for(Channel.JOBS),
            "hold_callbacks": options.hold_for(Channel.CALLBACKS),
            "hold_docker": options.hold_for(Channel.DOCKER),
            "hold_functions": options.hold_for(Channel.FUNCTIONS),
            "worker_id": options.worker_id,
        }
        self._steps = TaskSteps(database, self._common)

    def submit_job(self, submission: JobSubmission) -> tuple[JobRecord, Commit]:
        found = self._db.rows(
            self._jobs["submit"],
            {
                **self._common,
                **self._planned(submission.first_stage),
                "fingerprint": submission.fingerprint,
                "rerun": submission.rerun,
                "job_type": submission.job_type,
                "total_stages": submission.total_stages,
                "parameters": jsonb(dict(submission.parameters)),
                "failure_policy": submission.failure_policy,
                "submitted_by": submission.submitted_by,
                "traceparent": submission.traceparent,
            },
        )
        if found:
            return rows.job(found[0]), Commit(messages=self._direct(found))
        latest = self._db.row(self._jobs["latest_run"], {"fingerprint": submission.fingerprint})
        if latest is None:
            raise Conflict("the job was submitted and removed at the same time; submit it again")
        return rows.job(latest), Commit(applied=False)

    def replay_job(
        self,
        job_id: str,
        *,
        from_stage: int | None = None,
        from_checkpoint: int | None = None,
        submitted_by: str | None = None,
    ) -> tuple[JobRecord, Commit]:
        check_grain(from_stage, from_checkpoint)

        def work(connection: Connection) -> tuple[JobRecord, Commit]:
            with connection.transaction():
                return self._replay_in(connection, job_id, from_stage, from_checkpoint, submitted_by)

        return self._db.run(work)

    def _replay_in(
        self,
        connection: Connection,
        job_id: str,
        from_stage: int | None,
        from_checkpoint: int | None,
        submitted_by: str | None,
    ) -> tuple[JobRecord, Commit]:
        found = connection.execute(self._replay["lock"], {"job_id": job_id}).fetchone()
        if found is None:
            raise JobNotFound(job_id)
        old = rows.job(found)
        latest = connection.execute(self._replay["latest"], {"fingerprint": old.fingerprint}).fetchone()
        if latest is None or latest["job_id"] != job_id:
            followed_by = latest["job_id"] if latest is not None else "nothing"
            raise Conflict(f"job {job_id} was already followed by run {followed_by}; retry that one")
        if old.status not in TERMINAL_JOB_STATUSES:
            raise Conflict(f"job {job_id} is {old.status}; only an ended job can be run again")
        carried = self._carried(connection, old, from_stage, from_checkpoint)
        new = {
            **self._common,
            "job_id": job_id,
            "new_id": job_run_id(old.fingerprint, latest["run"] + 1),
            "run": latest["run"] + 1,
            **carried,
            "phase": from_checkpoint,
            "submitted_by": submitted_by,
        }
        made = connection.execute(self._replay["new_run"], new).fetchone()
        assert made is not None  # noqa: S101 - the locked row above is still there
        for step in ("carry_tasks", "carry_items", "carry_stages", "hint"):
            connection.execute(self._replay[step], new)
        return rows.job(made), Commit()

    def _carried(
        self, connection: Connection, old: JobRecord, from_stage: int | None, from_checkpoint: int | None
    ) -> Mapping[str, Any]:
        """The stages that the new run keeps, whether what did not complete in them is done again, and what else."""
        if from_stage is not None:
            if 1 <= from_stage <= max(old.stage, 1):
                return {"kept": from_stage - 1, "redo": False, "saved_again": False}
            raise Conflict(
                f"job {old.job_id} reached stage {old.stage}; it cannot be run again from stage {from_stage}"
            )
        if from_checkpoint is None and old.status is JobStatus.COMPLETED:
            raise Conflict(f"job {old.job_id} is completed and has no failed task to run again")
        named = {"job_id": old.job_id, "phase": from_checkpoint}

        def stage(query: str) -> int | None:
            found = connection.execute(self._replay[query], named).fetchone()
            return found["stage"] if found is not None else None

        first_open = stage("first_open_stage")
        if from_checkpoint is None:
            return {"kept": first_open or old.stage, "redo": True, "saved_again": False}
        kept = first_open or stage("last_saved_stage")
        saved = connection.execute(self._replay["furthest_phase"], {**named, "stage": first_open}).fetchone()
        furthest = saved["phase"] if saved is not None else 0
        if kept is None or furthest < from_checkpoint:
            raise no_such_checkpoint(old.job_id, from_checkpoint, furthest)
        return {"kept": kept, "redo": True, "saved_again": first_open is None}

    def get_job(self, job_id: str) -> JobRecord | None:
        found = self._db.row(self._jobs["get"], {"job_id": job_id})
        return rows.job(found) if found is not None else None

    def list_jobs(self, query: JobQuery) -> Sequence[JobRecord]:
        found = self._db.run(lambda connection: list_jobs(connection, "*", query))
        return [rows.job(row) for row in found]

    def list_stages(self, job_id: str) -> Sequence[StageRecord]:
        return [rows.stage(row) for row in self._db.rows(self._jobs["stages"], {"job_id": job_id})]

    def plan_stage(self, job_id: str, plan: StagePlan) -> Commit:
        found = self._db.rows(self._jobs["plan_stage"], {**self._common, **self._planned(plan), "job_id": job_id})
        return Commit(applied=bool(found), messages=self._direct(found))

    def _planned(self, plan: StagePlan | None) -> Mapping[str, Any]:
        """The parameters of the SQL block ``planned``."""
        if plan is None:
            return _UNPLANNED
        channel = plan.runs_on.channel
        direct = channel in self._options.direct and len(plan.tasks) <= _MAX_DIRECT_ENTRIES
        return {
            "stage": plan.stage,
            "name": plan.name,
            "task_type": plan.task_type,
            "runs_on": plan.runs_on,
            "total": len(plan.tasks),
            "tasks": dumps(
                [
                    {
                        "task_index": index,
                        "parameters": dict(task.parameters),
                        "max_attempts": task.max_attempts or plan.max_attempts,
                        "timeout_seconds": task.timeout_seconds,
                        "callback_url": task.callback_url,
                    }
                    for index, task in enumerate(plan.tasks)
                ]
            ),
            "hold": self._options.hold if direct else timedelta(0),
            "want_entries": direct,
        }

    def stage_results(self, job_id: str, stage: int) -> Sequence[TaskResult]:
        found = self._db.rows(self._jobs["stage_results"], {"job_id": job_id, "stage": stage})
        return [rows.task_result(row) for row in found]

    def finish_job(self, job_id: str, *, stage: int, status: JobStatus, result: Mapping[str, Any]) -> Commit:
        found = self._db.row(
            self._jobs["finish"],
            {"job_id": job_id, "stage": stage, "status": status, "result": jsonb(dict(result))},
        )
        return Commit(applied=found is not None)

    def fail_job(self, job_id: str, error: ErrorInfo) -> Commit:
        return self._end_early(job_id, JobStatus.FAILED, error)

    def cancel_job(self, job_id: str, *, reason: str) -> Commit:
        return self._end_early(
            job_id, JobStatus.CANCELLED, ErrorInfo(type="JobCancelled", message=reason, retryable=False)
        )

    def _end_early(self, job_id: str, status: JobStatus, error: ErrorInfo) -> Commit:
        found = self._db.row(
            self._jobs["end_early"], {"job_id": job_id, "status": status, "error": jsonb(error.as_dict())}
        )
        return Commit(applied=found is not None)

    def get_task(self, task_id: str) -> TaskRecord | None:
        found = self._db.row(self._tasks["get"], {"task_id": task_id})
        return rows.task(found) if found is not None else None

    def list_tasks(self, query: TaskQuery) -> Sequence[TaskRecord]:
        names = ("job_id", "stage", "status", "runs_on", "offset", "limit")
        found = self._db.rows(self._tasks["list"], {name: getattr(query, name) for name in names})
        return [rows.task(row) for row in found]

    def count_tasks(self, job_id: str) -> Mapping[int, Mapping[str, int]]:
        counts: dict[int, dict[str, int]] = {}
        for row in self._db.rows(self._tasks["count"], {"job_id": job_id}):
            counts.setdefault(row["stage"], {})[row["status"]] = row["n"]
        return counts

    def list_attempts(self, task_id: str) -> Sequence[AttemptRecord]:
        return [rows.attempt(row) for row in self._db.rows(self._tasks["attempts"], {"task_id": task_id})]

    def claim_task(self, task_id: str, *, worker_id: str, lease: timedelta) -> Claim | NotClaimed:
        step = ClaimStep(task_id, worker_id, lease, uuid.uuid4())
        found = self._steps.claim(step)
        if found is None:
            # It may be this very call's: made, and its answer lost with the connection.
            found = self._db.row(self._tasks["unclaimed"], {"task_id": task_id, "claim_key": step.claim_key})
            if found is None or not found["is_ours"]:
                return _not_claimed(found)
        task = rows.task(found)
        return Claim(task=task, attempt=task.attempt, worker_id=worker_id, lease=lease)

    def heartbeat(self, claim: Claim) -> ClaimSignal:
        return self._signal(claim, self._tasks["heartbeat"])

    def check_claim(self, claim: Claim) -> ClaimSignal:
        return self._signal(claim, self._tasks["check_claim"])

    def _signal(self, claim: Claim, query: LiteralString) -> ClaimSignal:
        found = self._db.row(query, {"task_id": claim.task_id, "attempt": claim.attempt, "lease": claim.lease})
        if found is None:
            raise ClaimLost(claim.task_id, claim.attempt)
        return ClaimSignal(cancel_requested=found["cancel_requested"])

    def complete_task(self, claim: Claim, result: Mapping[str, Any]) -> Commit:
        found = self._steps.complete(CompleteStep(claim, dumps(dict(result))))
        return self._ended(claim, "completed", found)

    def fail_task(self, claim: Claim, error: ErrorInfo, *, retry_in: timedelta | None) -> Commit:
        named: dict[str, Any] = {"error": jsonb(error.as_dict())}
        if retry_in is None:
            return self._end(claim, "failed", self._tasks["fail"], {**named, "expired": False})
        commit = self._end(claim, "failed", self._tasks["retry"], {**named, "delay": retry_in})
        return Commit(applied=commit.applied)  # its hint is not due yet: the relay sends it when it is

    def release_task(self, claim: Claim, *, reason: str) -> Commit:
        return self._end(claim, "interrupted", self._tasks["release"], {"reason": reason})

    def cancel_task(self, claim: Claim, *, reason: str) -> Commit:
        error = ErrorInfo(type="TaskCancelled", message=reason, retryable=False)
        named = {"reason": reason, "error": jsonb(error.as_dict())}
        return self._end(claim, "cancelled", self._tasks["cancel"], named)

    def _end(self, claim: Claim, outcome: str, query: LiteralString, extra: Mapping[str, Any]) -> Commit:
        named = {
            **self._common,
            "task_id": claim.task_id,
            "attempt": claim.attempt,
            **extra,
            "worker_id": claim.worker_id,
        }
        return self._ended(claim, outcome, self._db.rows(query, named))

    def _ended(self, claim: Claim, outcome: str, found: Sequence[Mapping[str, Any]]) -> Commit:
        """What an ending left; when it found a stale claim, see whether it is this very ending, repeated."""
        if not found:
            named = {"task_id": claim.task_id, "attempt": claim.attempt}
            ended = self._db.row(self._tasks["attempt_outcome"], named)
            if ended is None or ended["outcome"] != outcome:
                raise ClaimLost(claim.task_id, claim.attempt)
            return Commit(applied=False)
        return Commit(last_in_stage=any(row.get("remaining") == 0 for row in found), messages=self._direct(found))

    def fail_waiting_task(self, task_id: str, error: ErrorInfo) -> Commit:
        found = self._db.rows(
            self._tasks["fail"],
            {
                **self._common,
                "task_id": task_id,
                "attempt": None,
                "expired": False,
                "error": jsonb(error.as_dict()),
            },
        )
        if not found:
            return Commit(applied=False)
        return Commit(last_in_stage=found[0]["remaining"] == 0, messages=self._direct(found))

    def _direct(self, found: Sequence[Mapping[str, Any]]) -> Sequence[OutboxEntry]:
        return [entry for entry in rows.outbox_entries(found) if entry.channel in self._options.direct]


def _not_claimed(row: Mapping[str, Any] | None) -> NotClaimed:
    match row:
        case None:
            return NotClaimed(reason="no such task", known=False)
        case {"status": "processing", "lease_is_live": True, "lease_owner": owner}:
            return NotClaimed(reason=f"{owner} holds a live lease")
        case {"status": "processing"}:
            return NotClaimed(reason="its lease has run out and the sweeper has not requeued it yet")
        case {"status": "pending" | "queued", "job_status": ("queued" | "processing"), "not_due": True}:
            return NotClaimed(reason="it is not due yet")
        case {"status": "pending" | "queued", "job_status": job_status}:
            return NotClaimed(reason=f"its job is {job_status}")
        case {"status": status}:
            return NotClaimed(reason=f"it is already {status}")
        case _:
            raise AssertionError(row)
