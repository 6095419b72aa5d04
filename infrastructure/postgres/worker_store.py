"""The processes that are there: each writes a row of its own every few seconds, and everybody can read them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import jsonb
from infrastructure.postgres.queries import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a process says of itself. ``facts`` is JSON-ready."""

    worker_id: str
    role: str
    mode: str
    version: str
    state: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A process as it was ``age`` ago, by the database's clock."""

    worker_id: str
    role: str
    mode: str
    version: str
    state: str
    facts: Mapping[str, Any]
    started_at: datetime
    seen_at: datetime
    age: timedelta


class PostgresWorkerStore:
    """``app.workers``."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._queries = queries("workers")

    def report(self, report: WorkerReport, *, first: bool) -> None:
        """Write the process's row; ``first`` also starts its time anew."""
        self._db.execute(
            self._queries["report"],
            {
                "worker_id": report.worker_id,
                "role": report.role,
                "mode": report.mode,
                "version": report.version,
                "state": report.state,
                "facts": jsonb(dict(report.facts)),
                "first": first,
            },
        )

    def forget(self, after: timedelta) -> int:
        """Remove processes that have not been seen for that long; how many there were."""
        return self._db.execute(self._queries["forget"], {"after": after})

    def list_workers(self) -> Sequence[WorkerRecord]:
        """Every process that is not forgotten, those that have stopped last."""
        return [WorkerRecord(**row) for row in self._db.rows(self._queries["list"])]
