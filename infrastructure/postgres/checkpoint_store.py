"""Checkpoints, finished items and progress on PostgreSQL, each write fenced by the claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

from core.errors import ClaimLost
from core.records import Checkpoint, Claim, Progress
from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import dumps, jsonb
from infrastructure.postgres.queries import queries


class PostgresCheckpointStore:
    """The CheckpointStore port on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._queries = queries("checkpoints")

    def load_checkpoint(self, claim: Claim) -> Checkpoint:
        row = self._fenced(claim, self._queries["load"])
        return Checkpoint(
            phase=row["checkpoint_phase"] or 0,
            data=row["checkpoint_data"] or {},
            cursor=row["checkpoint_cursor"],
            artifacts=row["checkpoint_artifacts"] or {},
            schema_version=row["checkpoint_version"] or 1,
        )

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        self._fenced(
            claim,
            self._queries["save"],
            phase=checkpoint.phase,
            data=jsonb(dict(checkpoint.data)),
            cursor=jsonb(dict(checkpoint.cursor)) if checkpoint.cursor is not None else None,
            artifacts=jsonb({name: dict(facts) for name, facts in checkpoint.artifacts.items()}),
            version=checkpoint.schema_version,
        )

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:
        found = self._db.rows(self._queries["load_items"], {"task_id": claim.task_id, "phase": phase})
        return {row["item_key"]: row["data"] or {} for row in found}

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        self._fenced(
            claim,
            self._queries["save_items"],
            phase=phase,
            keys=list(items),
            data=[dumps(dict(data)) for data in items.values()],
        )

    def clear_checkpoint(self, claim: Claim) -> None:
        self._fenced(claim, self._queries["clear"])

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        self._fenced(claim, self._queries["save_progress"], progress=jsonb(progress.as_dict()))

    def _fenced(self, claim: Claim, query: LiteralString, **named: Any) -> Mapping[str, Any]:
        row = self._db.row(query, {"task_id": claim.task_id, "attempt": claim.attempt, **named})
        if row is None:
            raise ClaimLost(claim.task_id, claim.attempt)
        return row
