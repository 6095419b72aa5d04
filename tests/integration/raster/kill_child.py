"""Runs ``process_raster_complete`` with a checkpoint on disk, and says on standard output whenever it begins a tile.

python -m tests.integration.raster.kill_child DIRECTORY PARAMETERS_AS_JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.handlers import HandlerRegistry
from services.raster import budget, tiling
from services.raster.registry import HANDLERS
from tests.raster_support import MemoryCheckpoint, MemoryItems, context_in


class FileItems(MemoryItems):
    """Finished items, each saved at once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            self.known = dict(json.loads(line) for line in path.read_text().splitlines())

    def mark(self, key: str, data: Mapping[str, Any] | None = None) -> None:
        super().mark(key, data)
        with self._path.open("a") as file:
            file.write(json.dumps([key, data]) + "\n")


class FileCheckpoint(MemoryCheckpoint):
    """A checkpoint that another process goes on with."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._state = directory / "checkpoint.json"
        if self._state.exists():
            self.phase, self.data = json.loads(self._state.read_text())

    def save(self, phase: int, data: Any = None, check: Any = None, *, artifacts: Iterable[Path] = ()) -> None:
        super().save(phase, data, check, artifacts=artifacts)
        part = self._state.with_suffix(".part")
        part.write_text(json.dumps([self.phase, self.data]))
        part.replace(self._state)

    def items(self, phase: int) -> MemoryItems:
        return self.item_logs.setdefault(phase, FileItems(self._directory / f"items{phase}.jsonl"))


def main() -> None:
    directory, parameters = Path(sys.argv[1]), json.loads(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    if "largest_tile" in parameters:
        budget.MAX_TILE = parameters.pop("largest_tile")
    original = tiling.encoded

    def told(*arguments: Any, **named: Any) -> Any:
        sys.stdout.write("tile\n")
        sys.stdout.flush()
        return original(*arguments, **named)

    tiling.encoded = told
    context, _ = context_in(directory, checkpoint=FileCheckpoint(directory))
    result = HandlerRegistry(HANDLERS)["process_raster_complete"].call(parameters, context)
    (directory / "result.json").write_text(json.dumps(dict(result)))


if __name__ == "__main__":
    main()
