"""The sweeper's steps on PostgreSQL: guarded statements, in a fixed order, safe in several processes at once."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from core.errors import ErrorInfo, GeoworkerError, StoreUnavailable
from core.records import SweepReport
from core.retry import Backoff
from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import jsonb
from infrastructure.postgres.queries import queries
from infrastructure.postgres.state_store import StoreOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweeperStatus:
    """When the sweeper last ran, which worker ran it, and what it did."""

    last_run_at: datetime | None
    last_run_by: str | None
    last_report: Mapping[str, Any] | None
    age: timedelta | None
    passes: int


class PostgresSweepStore:
    """The SweepStore port on PostgreSQL."""

    def __init__(
        self,
        database: Database,
        options: StoreOptions,
        *,
        backoff: Backoff | None = None,
        keep_sent: timedelta = timedelta(days=7),
        rng: random.Random | None = None,
    ) -> None:
        self._db = database
        self._options = options
        self._backoff = backoff or Backoff()
        self._keep_sent = keep_sent
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._queries = queries("sweep")
        self._tasks = queries("tasks")
        self._common: dict[str, Any] = {
            "worker_id": options.worker_id,
            "hint_interval": options.hint_interval,
            "hold_jobs": timedelta(0),
            "hold_callbacks": timedelta(0),
        }

    def sweep(self, *, limit: int) -> SweepReport:
        named = {**self._common, "limit": limit}
        expired, refused = self._expire_leases(limit)
        cancelled = len(self._db.rows(self._queries["cancel_unwanted"], named))
        hints = len(self._db.rows(self._queries["resend_task_hints"], named))
        jobs = [row["message_type"] for row in self._db.rows(self._queries["resend_job_hints"], named)]
        pruned = self._db.execute(self._queries["prune_outbox"], {"keep": self._keep_sent, "limit": limit})
        report = SweepReport(
            leases_expired=expired,
            refused=refused,
            tasks_cancelled=cancelled,
            hints_resent=hints,
            jobs_resent=jobs.count("job"),
            stages_completed=jobs.count("stage_complete"),
            pruned=pruned,
        )
        self._db.execute(self._queries["record"], {**named, "report": jsonb(asdict(report))})
        return report

    def status(self) -> SweeperStatus:
        """The last pass of any process."""
        row = self._db.row(self._queries["last"])
        assert row is not None  # noqa: S101 - the migration puts the one row there
        return SweeperStatus(**row)

    def _expire_leases(self, limit: int) -> tuple[int, int]:
        """End executions whose lease has run out, up to ``limit``; how many were ended, and how many refused to be.

        A row that refuses (a fault of the schema or of the row) is passed over, so that it stands in nobody's way.
        """
        ended = refused = 0
        page_end: dict[str, Any] = {"after": "-infinity", "after_id": ""}
        while ended < limit:
            page = self._db.rows(self._queries["expired"], {"limit": limit, **page_end})
            for row in page:
                page_end = {"after": row["lease_expires_at"], "after_id": row["task_id"]}
                try:
                    ended += self._expire_lease(row)
                except StoreUnavailable:
                    raise
                except (GeoworkerError, psycopg.Error):
                    refused += 1
                    logger.exception(
                        "an expired lease could not be ended",
                        extra={"action": "sweeper.refused", "task_id": row["task_id"]},
                    )
            if len(page) < limit:
                break
        return ended, refused

    def _expire_lease(self, row: Mapping[str, Any]) -> bool:
        error = ErrorInfo(
            type="LeaseExpired",
            message=f"worker {row['lease_owner']} stopped renewing its lease during attempt {row['attempt']}:"
            " it was killed, its machine was lost, or it could not reach the database",
            retryable=not row["exhausted"],
            cause="lease expired",
        )
        named = {
            **self._common,
            "worker_id": row["lease_owner"],
            "task_id": row["task_id"],
            "attempt": row["attempt"],
            "error": jsonb(error.as_dict()),
            "delay": self._backoff.delay(row["failures"] + 1, self._rng),
            "expired": True,
        }
        if row["unwanted"]:
            query = self._queries["cancel_expired"]
        elif row["exhausted"]:
            query = self._tasks["fail"]
        else:
            query = self._queries["requeue_expired"]
        return bool(self._db.rows(query, named))
