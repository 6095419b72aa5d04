"""New hints on request, for messages that were dead-lettered: written to the outbox, guarded by the state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from infrastructure.postgres.database import Database
from infrastructure.postgres.queries import queries


class PostgresHints:
    """Sends a waiting task's or job's message again. Changes nothing for one that does not wait."""

    def __init__(self, database: Database, *, worker_id: str, hint_interval: timedelta = timedelta(seconds=60)) -> None:
        self._db = database
        self._queries = queries("hints")
        self._common: dict[str, Any] = {"worker_id": worker_id, "hint_interval": hint_interval}

    def hint_task(self, task_id: str) -> bool:
        """Whether a hint was written; not when the task does not wait, or its hint is on its way already.

        Raises:
            StoreUnavailable: when the store cannot be reached.
        """
        return self._db.row(self._queries["task"], {**self._common, "task_id": task_id}) is not None

    def hint_job(self, job_id: str) -> bool:
        """Whether a hint was written; not when the job waits for its tasks or has ended, or a hint is on its way.

        Raises:
            StoreUnavailable: when the store cannot be reached.
        """
        return self._db.row(self._queries["job"], {**self._common, "job_id": job_id}) is not None
