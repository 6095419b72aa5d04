"""What the dashboard reads: small answers about large tables, each found by an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, LiteralString

from core.records import JobQuery
from infrastructure.postgres.database import Database
from infrastructure.postgres.job_filters import list_jobs
from infrastructure.postgres.queries import queries

Row = Mapping[str, Any]

_LISTED: LiteralString = (
    "job_id, job_type, status, stage, total_stages, run, replay_of, submitted_by, created_at, started_at, finished_at,"
    " error_details ->> 'type' AS error_type, left(error_details ->> 'message', 300) AS error_message"
)


class DashboardStore:
    """Reads of ``app`` that no port of the core has. Rows come as mappings of the columns that the SQL names."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._queries = queries("dashboard")

    def _rows(self, name: str, **named: Any) -> Sequence[Row]:
        return self._db.rows(self._queries[name], named)

    def jobs(self, query: JobQuery) -> Sequence[Row]:
        """A page of jobs without their parameters and results."""
        return self._db.run(lambda connection: list_jobs(connection, _LISTED, query))

    def counts(self, since: timedelta) -> Mapping[str, int]:
        """Jobs that have not ended, and those created since that ended, by status."""
        return {row["status"]: row["n"] for row in self._rows("counts", since=since)}

    def stages_of(self, job_ids: Sequence[str]) -> Mapping[str, Sequence[Row]]:
        """The planned stages of jobs, by job."""
        return _by(self._rows("stages_of", job_ids=list(job_ids)), "job_id")

    def running_in(self, job_ids: Sequence[str]) -> Mapping[str, Sequence[Row]]:
        """The running tasks of jobs (500 in all at most), by job."""
        return _by(self._rows("running_in", job_ids=list(job_ids)), "job_id")

    def cells(self, job_id: str, cells: int) -> Mapping[int, Sequence[Row]]:
        """The tasks of each stage counted by state in at most ``cells`` cells of neighbours, by stage."""
        return _by(self._rows("cells", job_id=job_id, cells=cells), "stage")

    def lanes(self, job_id: str, stage: int, *, start: int, state: str | None, limit: int) -> Sequence[Row]:
        """Tasks of a stage from an index on, those of a state."""
        return self._rows("lanes", job_id=job_id, stage=stage, start=start, state=state, limit=limit)

    def attempts_of(self, task_ids: Sequence[str]) -> Mapping[str, Sequence[Row]]:
        """The ended attempts of tasks, in order, by task."""
        return _by(self._rows("attempts_of", task_ids=list(task_ids)), "task_id")

    def errors(self, job_id: str) -> Sequence[Row]:
        """What went wrong in a job's tasks, the same fault told once with its number of tasks and one of them."""
        return self._rows("errors", job_id=job_id)

    def saved_phases(self, job_id: str) -> Sequence[Row]:
        """How many tasks of each stage have saved up to which phase."""
        return self._rows("saved_phases", job_id=job_id)

    def message_counts(self, job_id: str) -> Sequence[Row]:
        """Messages that a job caused, by channel and delivery."""
        return self._rows("message_counts", job_id=job_id)

    def messages(self, job_id: str, *, task_id: str | None = None, limit: int = 50) -> Sequence[Row]:
        """The latest messages that a job or one of its tasks caused, callbacks first."""
        return self._rows("messages", job_id=job_id, task_id=task_id, limit=limit)

    def runs(self, fingerprint: str) -> Sequence[Row]:
        """The latest runs of a job."""
        return self._rows("runs", fingerprint=fingerprint)

    def checkpoint(self, task_id: str) -> Row | None:
        """What a task has saved."""
        return self._db.row(self._queries["checkpoint"], {"task_id": task_id})

    def item_counts(self, task_id: str) -> Sequence[Row]:
        """How many items a task has finished in each phase."""
        return self._rows("item_counts", task_id=task_id)

    def running(self) -> Sequence[Row]:
        """The tasks that run now, anywhere (200 at most), with the seconds left of their lease."""
        return self._rows("running")

    def waiting(self) -> Sequence[Row]:
        """Tasks that are due and wait, by place (10,001 counted at most), and since when the oldest was planned."""
        return self._rows("waiting")

    def unsent(self) -> Sequence[Row]:
        """Messages on their way out, by channel (10,001 counted at most)."""
        return self._rows("unsent")

    def undelivered(self, limit: int = 200) -> Sequence[Row]:
        """Messages that were given up, the latest first."""
        return self._rows("undelivered", limit=limit)

    def undelivered_count(self) -> int:
        """How many messages were given up (10,001 at most)."""
        found = self._rows("undelivered_count")
        return int(found[0]["n"])


def _by(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups
