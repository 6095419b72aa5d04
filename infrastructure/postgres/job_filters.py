"""A page of jobs as SQL: only the conditions that are asked for, so that each is answered by an index."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from core.records import JobQuery
from infrastructure.postgres.database import Connection

_CONDITIONS: Mapping[str, LiteralString] = {
    "status": "status = %(status)s",
    "job_type": "job_type = %(job_type)s",
    "created_after": "created_at >= %(created_after)s",
    "created_before": "created_at < %(created_before)s",
    "id_prefix": "job_id ^@ %(id_prefix)s",
}


def list_jobs(connection: Connection, columns: LiteralString, query: JobQuery) -> list[dict[str, Any]]:
    """``columns`` of the jobs that ``query`` asks for, newest first; nothing after a job that is not there."""
    created_at = None
    if query.before is not None:
        cursor = connection.execute(
            "SELECT created_at FROM app.jobs WHERE job_id = %(job_id)s", {"job_id": query.before}
        ).fetchone()
        if cursor is None:
            return []
        created_at = cursor["created_at"]
    statement, named = page_statement(columns, query, created_at)
    return connection.execute(statement, named).fetchall()


def page_statement(
    columns: LiteralString, query: JobQuery, before_created_at: datetime | None
) -> tuple[LiteralString, Mapping[str, Any]]:
    """The statement of a page and its parameters; ``before_created_at`` is when the job was created that it follows."""
    given: dict[str, Any] = {name: value for name in _CONDITIONS if (value := getattr(query, name)) is not None}
    conditions: list[LiteralString] = [_CONDITIONS[name] for name in given]
    if before_created_at is not None:
        given |= {"at": before_created_at, "before": query.before}
        conditions.append("(created_at, job_id) < (%(at)s, %(before)s)")
    where: LiteralString = "WHERE " + " AND ".join(conditions) if conditions else ""
    order: LiteralString = "ORDER BY created_at DESC, job_id DESC LIMIT %(limit)s"
    return " ".join(["SELECT", columns, "FROM app.jobs", where, order]), {**given, "limit": query.limit}
