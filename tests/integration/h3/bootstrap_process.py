"""A bootstrap in a process of its own, to be killed: checkpoints in a file, cells in PostgreSQL, a log of batches.

``python -m tests.integration.h3.bootstrap_process <database url> <directory> <parameters as JSON>``
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from core.ports import Returned
from core.records import Checkpoint, Claim
from core.stopping import StopReason, StopToken
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from infrastructure.postgres.h3_store import PostgresGridStore
from services.h3.grid import Grid, Tally
from services.h3.ports import BatchId
from tests.h3_support import MemoryCheckpoints, Task


class FileCheckpoints(MemoryCheckpoints):
    """Checkpoints that outlive the process."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            self.checkpoint, self.kept = pickle.loads(path.read_bytes())

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        super().save_checkpoint(claim, checkpoint)
        self._write()

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        super().save_items(claim, phase, items)
        self._write()

    def _write(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_bytes(pickle.dumps((self.checkpoint, self.kept)))
        part.replace(self._path)


class LoggingStore:
    """Notes each batch whose rows are asked for, and each that is saved."""

    def __init__(self, inner: PostgresGridStore, log: Path) -> None:
        self._inner = inner
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def note(self, *words: object) -> None:
        os.write(self._log, (" ".join(map(str, words)) + "\n").encode())

    def save_batch(self, grid: Grid, batch: BatchId, rows: Callable[[], Iterable[Any]]) -> Tally:
        def noted() -> Iterable[Any]:
            self.note("made", batch.resolution, batch.number)
            return rows()

        tally = self._inner.save_batch(grid, batch, noted)
        self.note("saved", batch.resolution, batch.number)
        return tally

    def publish(self, grid: Grid, summary: Mapping[str, Any]) -> Grid:
        self.note("publish")
        return self._inner.publish(grid, summary)


def main(url: str, directory: Path, parameters: Mapping[str, Any]) -> int:
    """Run one attempt; 0 when the grid is complete, 3 when interrupted."""
    stop = StopToken()
    signal.signal(signal.SIGTERM, lambda *_: stop.request(StopReason.DRAIN))
    pool = ConnectionPoolManager(url, PoolSettings(min_size=1, max_size=2))
    store = LoggingStore(PostgresGridStore(Database(pool)), directory / "batches.log")
    store.note("attempt")
    task = Task(
        "h3_bootstrap_complete",
        parameters,
        directory,
        store,  # type: ignore[arg-type]
        checkpoints=FileCheckpoints(directory / "checkpoint"),
    )
    execution = task.attempt(stop)
    pool.close()
    assert isinstance(execution, Returned), execution
    return 3 if execution.result.get("interrupted") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])))
