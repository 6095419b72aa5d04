"""A fenced CheckpointStore in SQLite, for child processes that are killed without a database server around them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import ClaimLost
from core.records import Checkpoint, Claim, Progress


class FileCheckpointStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as db:
            db.executescript(
                "CREATE TABLE IF NOT EXISTS fence (task TEXT PRIMARY KEY, attempt INT);"
                "CREATE TABLE IF NOT EXISTS checkpoint (task TEXT PRIMARY KEY, body TEXT);"
                "CREATE TABLE IF NOT EXISTS item"
                " (task TEXT, phase INT, key TEXT, body TEXT, PRIMARY KEY (task, phase, key));"
                "CREATE TABLE IF NOT EXISTS progress (task TEXT PRIMARY KEY, body TEXT)"
            )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def _fenced(self, claim: Claim) -> sqlite3.Connection:
        db = self._open()
        db.execute("BEGIN IMMEDIATE")
        row = db.execute("SELECT attempt FROM fence WHERE task = ?", [claim.task_id]).fetchone()
        if row is not None and row[0] > claim.attempt:
            db.close()
            raise ClaimLost(claim.task_id, claim.attempt)
        db.execute("INSERT OR REPLACE INTO fence VALUES (?, ?)", [claim.task_id, claim.attempt])
        return db

    def _write(self, claim: Claim, statement: str, *rows: tuple[Any, ...]) -> None:
        db = self._fenced(claim)
        db.executemany(statement, rows)
        db.commit()
        db.close()

    def load_checkpoint(self, claim: Claim) -> Checkpoint:
        db = self._fenced(claim)
        row = db.execute("SELECT body FROM checkpoint WHERE task = ?", [claim.task_id]).fetchone()
        db.commit()
        db.close()
        return Checkpoint(**json.loads(row[0])) if row is not None else Checkpoint()

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        body = json.dumps({name: getattr(checkpoint, name) for name in checkpoint.__slots__}, allow_nan=False)
        self._write(claim, "INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", (claim.task_id, body))

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:
        db = self._open()
        rows = db.execute("SELECT key, body FROM item WHERE task = ? AND phase = ?", [claim.task_id, phase]).fetchall()
        db.close()
        return {key: json.loads(body) for key, body in rows}

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        rows = [(claim.task_id, phase, key, json.dumps(dict(body))) for key, body in items.items()]
        self._write(claim, "INSERT OR IGNORE INTO item VALUES (?, ?, ?, ?)", *rows)

    def clear_checkpoint(self, claim: Claim) -> None:
        self._write(claim, "DELETE FROM checkpoint WHERE task = ?", (claim.task_id,))
        self._write(claim, "DELETE FROM item WHERE task = ?", (claim.task_id,))

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        body = json.dumps(progress.as_dict())
        self._write(claim, "INSERT OR REPLACE INTO progress VALUES (?, ?)", (claim.task_id, body))

    def progress_of(self, task_id: str) -> dict[str, Any] | None:
        db = self._open()
        row = db.execute("SELECT body FROM progress WHERE task = ?", [task_id]).fetchone()
        db.close()
        return json.loads(row[0]) if row is not None else None
