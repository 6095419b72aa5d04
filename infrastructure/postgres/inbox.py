"""Acceptances of ``POST /task/start`` on PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from core.errors import Conflict, StoreUnavailable, TaskNotFound
from core.messages import TaskMessage
from core.records import RunsOn, TaskRecord
from core.states import TERMINAL_TASK_STATUSES, TaskStatus
from infrastructure.postgres import rows
from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import jsonb
from infrastructure.postgres.queries import queries


class BacklogFull(Conflict):
    """As many accepted tasks wait as may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What a caller asks to run. ``parameters`` None: those that were planned, or none."""

    task_id: str
    task_type: str | None = None
    parameters: Mapping[str, Any] | None = None
    job_id: str | None = None
    callback_url: str | None = None
    max_attempts: int = 3  # of an ad-hoc task
    submitted_by: str | None = None
    traceparent: str | None = None


class PostgresInbox:
    """Accepts tasks durably, and names those that wait."""

    def __init__(self, database: Database, *, max_backlog: int, hint_interval: timedelta) -> None:
        self._db = database
        self._max_backlog = max_backlog
        self._hint_interval = hint_interval
        self._queries = queries("inbox")
        self._tasks = queries("tasks")

    def accept(self, request: StartRequest) -> TaskRecord:
        """Commit the acceptance of a planned or an ad-hoc task and return it; the same request again changes nothing.

        Raises:
            TaskNotFound: when the task is not planned and no task type says what to run.
            Conflict: when the id is known with another type, job or parameters, or runs elsewhere.
            BacklogFull: when too many accepted tasks wait.
            StoreUnavailable: when the store cannot be reached; nothing was accepted.
        """
        parameters = None if request.parameters is None else dict(request.parameters)
        outcome = self._db.row(
            self._queries["accept"],
            {
                "task_id": request.task_id,
                "task_type": request.task_type,
                "job_id": request.job_id,
                "parameters": jsonb(parameters),
                "adhoc": request.task_type is not None,
                "adhoc_job_id": request.job_id or _adhoc_job_id(request.task_id),
                "adhoc_parameters": jsonb(parameters or {}),
                "callback_url": request.callback_url,
                "submitted_by": request.submitted_by,
                "traceparent": request.traceparent,
                "max_backlog": self._max_backlog,
                "max_attempts": request.max_attempts,
                "hint_interval": self._hint_interval,
            },
        )
        if outcome is None:
            raise StoreUnavailable("the acceptance was not answered")
        full = outcome["waiting"] >= self._max_backlog
        found: Mapping[str, Any] | None = outcome
        if outcome["task_id"] is None:
            found = self._db.row(self._tasks["get"], {"task_id": request.task_id})
        if found is None:
            if full and request.task_type is not None:
                raise BacklogFull(f"{outcome['waiting']} accepted tasks wait already; try again later")
            if request.task_type is None:
                raise TaskNotFound(request.task_id)
            raise Conflict(f"job {request.job_id} is known and has no task {request.task_id}")
        task = rows.task(found)
        _check_same(request, task)
        if found["accepted_at"] is None and task.status in (TaskStatus.PENDING, TaskStatus.QUEUED):
            if full:
                raise BacklogFull(f"{outcome['waiting']} accepted tasks wait already; try again later")
            raise StoreUnavailable(f"task {request.task_id} is being changed at this moment")
        return task

    def waiting(self, *, known: Sequence[str], limit: int) -> Sequence[TaskMessage]:
        """Accepted tasks that are due and not among ``known``, oldest first."""
        found = self._db.rows(self._queries["waiting"], {"known": list(known), "limit": limit})
        return [
            TaskMessage(
                task_id=row["task_id"],
                parent_job_id=row["job_id"],
                job_type=row["job_type"],
                task_type=row["task_type"],
                stage=row["stage"],
                task_index=row["task_index"],
                attempt=row["attempt"],
                traceparent=row["traceparent"],
            )
            for row in found
        ]

    def figures(self) -> Mapping[str, Any]:
        """Waiting and running tasks, and how long the oldest has waited (seconds)."""
        row = self._db.row(self._queries["figures"])
        return dict(row) if row is not None else {}


def _check_same(request: StartRequest, task: TaskRecord) -> None:
    if task.runs_on is not RunsOn.DOCKER:
        raise Conflict(f"task {task.task_id} runs on {task.runs_on}, not on this worker")
    for name, given, known in (
        ("task_type", request.task_type, task.task_type),
        ("job_id", request.job_id, task.job_id),
        ("params", request.parameters, task.parameters),
    ):
        if given is not None and given != known:
            raise Conflict(f"task {task.task_id} is known with another {name}")
    if request.callback_url not in (None, task.callback_url) and task.status not in TERMINAL_TASK_STATUSES:
        raise Conflict(f"task {task.task_id} is known with another callback_url")


def _adhoc_job_id(task_id: str) -> str:
    return hashlib.sha256(f"single_task|{task_id}".encode()).hexdigest()
