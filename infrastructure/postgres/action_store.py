"""The record of what people did: who, when, by which way, and to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import jsonb
from infrastructure.postgres.queries import queries


class Via(StrEnum):
    """The way an action came."""

    DASHBOARD = "dashboard"
    API = "api"
    CLI = "cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action. ``target`` names what is no job: a message's number, a queue."""

    actor: str
    via: Via
    action: str
    job_id: str | None = None
    target: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """A recorded action."""

    action_id: int
    at: datetime
    actor: str
    via: str
    action: str
    job_id: str | None
    target: str | None
    details: Mapping[str, Any]


class PostgresActionStore:
    """``app.actions``."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._queries = queries("actions")

    def record(self, action: Action) -> None:
        """Keep an action."""
        self._db.execute(
            self._queries["record"],
            {
                "actor": action.actor[:200],
                "via": action.via,
                "action": action.action,
                "job_id": action.job_id,
                "target": action.target,
                "details": jsonb(dict(action.details)),
            },
        )

    def list_actions(self, *, before: int | None = None, limit: int = 50) -> Sequence[ActionRecord]:
        """Actions, the latest first, those before a number."""
        return [ActionRecord(**row) for row in self._db.rows(self._queries["list"], {"before": before, "limit": limit})]

    def of_job(self, job_id: str, *, limit: int = 50) -> Sequence[ActionRecord]:
        """What was done to a job, the latest first."""
        found = self._db.rows(self._queries["of_job"], {"job_id": job_id, "limit": limit})
        return [ActionRecord(**row) for row in found]
