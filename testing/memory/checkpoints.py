"""Statements on checkpoints (``infrastructure/postgres/sql/checkpoints.sql``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.records import Checkpoint, Claim, Progress
from infrastructure.json_text import clean
from testing.memory.rows import stored
from testing.memory.tables import Tables, atomic


class CheckpointStatements(Tables):
    """The CheckpointStore port."""

    @atomic
    def load_checkpoint(self, claim: Claim) -> Checkpoint:
        return self._fenced(claim).checkpoint or Checkpoint()

    @atomic
    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        kept = replace(
            checkpoint,
            data=stored(checkpoint.data),
            cursor=stored(checkpoint.cursor) if checkpoint.cursor is not None else None,
            artifacts=stored({name: dict(facts) for name, facts in checkpoint.artifacts.items()}),
        )
        task = self._fenced(claim)
        now = self.clock.now()
        task.checkpoint, task.checkpoint_updated_at = kept, now
        self._note("save_checkpoint", now, task_id=task.task_id, attempt=claim.attempt, phase=kept.phase)

    @atomic
    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:
        task = self._tasks.get(claim.task_id)
        return dict(task.items.get(phase, {})) if task is not None else {}

    @atomic
    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        kept = {clean(key): stored(data) for key, data in items.items()}
        task = self._fenced(claim)
        known = task.items.setdefault(phase, {})
        for key, data in kept.items():
            known.setdefault(key, data)
        self._note(
            "save_items", self.clock.now(), task_id=task.task_id, attempt=claim.attempt, phase=phase, items=len(kept)
        )

    @atomic
    def clear_checkpoint(self, claim: Claim) -> None:
        task = self._fenced(claim)
        now = self.clock.now()
        task.checkpoint, task.checkpoint_updated_at = None, now
        task.items.clear()
        self._note("clear_checkpoint", now, task_id=task.task_id, attempt=claim.attempt)

    @atomic
    def save_progress(self, claim: Claim, progress: Progress) -> None:
        kept = Progress(**stored(progress.as_dict()))
        task = self._fenced(claim)
        task.progress, task.progress_at = kept, self.clock.now()
