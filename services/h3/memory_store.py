"""A grid store in memory: for tests of handlers and for trying things out, held to PostgreSQL's contract."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from services.h3 import bits
from services.h3.bits import Cells
from services.h3.grid import Grid, GridSpec, Tally
from services.h3.ports import BatchId, CellStatistics, GridConflict, GridInconsistent, differing


@dataclass
class _Kept:
    grid: Grid
    batches: dict[BatchId, Cells] = field(default_factory=dict)
    statistics: dict[str, dict[BatchId, CellStatistics]] = field(default_factory=dict)


def tally(cells: Cells) -> Tally:
    """The tally of an array of cells."""
    return Tally(len(cells), int(np.bitwise_xor.reduce(cells)) if len(cells) else 0)


class InMemoryGridStore:
    """The GridStore port in a dictionary. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._keys = 0
        self._lock = threading.RLock()

    def begin(self, spec: GridSpec, *, replace: bool = False) -> Grid:
        with self._lock:
            known = self._kept.get(spec.grid_id)
            if known is not None and known.grid.spec.fingerprint == spec.fingerprint:
                return known.grid
            if known is not None and not replace:
                raise GridConflict(spec.grid_id, differing(known.grid.spec, spec))
            self._keys += 1
            self._kept[spec.grid_id] = _Kept(Grid(key=self._keys, spec=spec))
            return self._kept[spec.grid_id].grid

    def get(self, grid_id: str) -> Grid | None:
        kept = self._kept.get(grid_id)
        return kept.grid if kept else None

    def grids(self) -> Sequence[Grid]:
        return [self._kept[grid_id].grid for grid_id in sorted(self._kept)]

    def batches(self, grid: Grid, resolution: int) -> Mapping[int, Tally]:
        found = self._of(grid).batches
        return {batch.number: tally(cells) for batch, cells in found.items() if batch.resolution == resolution}

    def save_batch(self, grid: Grid, batch: BatchId, rows: Callable[[], Iterable[Cells]]) -> Tally:
        kept = self._of(grid)
        if batch not in kept.batches:
            if kept.grid.complete:
                raise GridInconsistent(grid.spec.grid_id, {"batch": [batch.resolution, batch.number]})
            chunks = list(rows())
            cells = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64)
            with self._lock:
                kept.batches.setdefault(batch, cells)
        return tally(kept.batches[batch])

    def publish(self, grid: Grid, summary: Mapping[str, Any]) -> Grid:
        with self._lock:
            kept = self._of(grid)
            if not kept.grid.complete:
                cells = self._sorted(kept)
                if len(np.unique(cells)) != len(cells):
                    raise GridInconsistent(grid.spec.grid_id, {"duplicates": len(cells) - len(np.unique(cells))})
                kept.grid = replace(kept.grid, complete=True, summary=dict(summary))
            return kept.grid

    def cells(self, grid: Grid, resolution: int) -> Iterator[Cells]:
        cells = self._sorted(self._of(grid))
        yield cells[bits.resolution_of(cells) == resolution]

    def checksum(self, grid: Grid) -> str:
        return hashlib.sha256(self._sorted(self._of(grid)).astype(">i8").tobytes()).hexdigest()

    def delete(self, grid_id: str) -> bool:
        with self._lock:
            return self._kept.pop(grid_id, None) is not None

    def save_statistics(self, grid: Grid, name: str, batch: BatchId, statistics: CellStatistics) -> bool:
        with self._lock:
            known = self._of(grid).statistics.setdefault(name, {})
            return known.setdefault(batch, statistics) is statistics

    def statistics_batches(self, grid: Grid, name: str) -> frozenset[BatchId]:
        return frozenset(self._of(grid).statistics.get(name, {}))

    def statistics(self, grid: Grid, name: str) -> Iterator[CellStatistics]:
        known = self._of(grid).statistics.get(name, {})
        for batch in sorted(known):
            if len(known[batch].cells):
                yield known[batch]

    def delete_statistics(self, grid: Grid, name: str) -> bool:
        with self._lock:
            return self._of(grid).statistics.pop(name, None) is not None

    def _of(self, grid: Grid) -> _Kept:
        return self._kept[grid.spec.grid_id]

    @staticmethod
    def _sorted(kept: _Kept) -> Cells:
        found = list(kept.batches.values())
        return np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
