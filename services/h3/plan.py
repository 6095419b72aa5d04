"""How a grid is cut into batches: the same batches each time it is asked, in the order of the cells.

A batch is a run of *units*, cells some steps coarser; their descendants are the batch's rows. Nothing but the units of
one resolution and one chunk of rows is ever in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import shapely

from services.h3 import bits
from services.h3.bits import Cells
from services.h3.containment import CHUNK_CELLS, Region, count, descend, select, select_in_chunks
from services.h3.grid import Containment, GridSpec, Method

_MOST_STEPS = 6


class GridPlan:
    """The cells of a grid, computed: base cells, batches and their rows."""

    def __init__(self, spec: GridSpec) -> None:
        self.spec = spec
        self.region = Region(shapely.from_wkb(spec.boundary))
        self._units: dict[int, Cells] = {}

    @cached_property
    def base_cells(self) -> Cells:
        """The cells that a cascade starts from, sorted: by the grid's containment, by overlap in a filtered cascade."""
        filtered = self.spec.method is Method.FILTERED_CASCADE
        mode = Containment.OVERLAP if filtered else self.spec.containment
        return select(self.region, bits.base_cells(), self.spec.base_resolution, mode)

    def batches(self, resolution: int) -> int:
        """How many batches a resolution has."""
        return -(-len(self._units_of(resolution)) // self._units_per_batch(resolution))

    def most_cells(self, resolution: int, batch: int) -> int:
        """No batch has more cells than this."""
        return int(bits.descendant_counts(self.units(resolution, batch), resolution).sum())

    def units(self, resolution: int, batch: int) -> Cells:
        """The cells whose descendants are the batch's candidates."""
        per_batch = self._units_per_batch(resolution)
        return self._units_of(resolution)[batch * per_batch : (batch + 1) * per_batch]

    def rows(self, resolution: int, batch: int) -> Iterator[Cells]:
        """The cells of a batch, sorted, in chunks."""
        units = self.units(resolution, batch)
        match self.spec.method:
            case Method.CASCADE:
                yield from bits.descendants_in_chunks(units, resolution, CHUNK_CELLS)
            case Method.POLYFILL | Method.FILTERED_CASCADE:
                yield from select_in_chunks(self.region, units, resolution, self.spec.containment)

    def polyfill_count(self, resolution: int, mode: Containment) -> int:
        """How many cells of a resolution belong to the area, whatever the grid's method."""
        return sum(count(self.region, part, resolution, mode) for part in self._parts(bits.base_cells(), resolution))

    def cascade_count(self, resolution: int, mode: Containment) -> int:
        """How many cells of the cascade belong to the area."""
        own = min(resolution, self.spec.base_resolution)
        base = self.base_cells if own == self.spec.base_resolution else bits.base_cells()
        return sum(count(self.region, part, resolution, mode) for part in self._parts(base, resolution))

    def _parts(self, cells: Cells, resolution: int) -> Iterator[Cells]:
        """Coarser cells in runs that bound the memory of a count."""
        own = int(bits.resolution_of(cells[:1])[0]) if len(cells) else resolution
        level = max(own, resolution - _MOST_STEPS)
        units = self._polyfill_units(cells, level)
        for start in range(0, len(units), 16):
            yield units[start : start + 16]

    def _steps(self) -> int:
        steps = 0
        while steps < _MOST_STEPS and 7 ** (steps + 1) <= self.spec.batch_cells:
            steps += 1
        return steps

    def _units_per_batch(self, resolution: int) -> int:
        units = self._units_of(resolution)
        steps = resolution - int(bits.resolution_of(units[:1])[0]) if len(units) else 0
        return max(1, int(self.spec.batch_cells // 7**steps))

    def _units_of(self, resolution: int) -> Cells:
        if resolution not in self._units:
            self._units[resolution] = self._made_units(resolution)
        return self._units[resolution]

    def _made_units(self, resolution: int) -> Cells:
        level = max(0, resolution - self._steps())
        if self.spec.method is Method.POLYFILL:
            return self._polyfill_units(bits.base_cells(), level)
        level = max(level, self.spec.base_resolution)
        if self.spec.method is Method.CASCADE:
            return bits.children(self.base_cells, level)
        return self._polyfill_units(self.base_cells, level)

    def _polyfill_units(self, cells: Cells, level: int) -> Cells:
        """The descendants of ``cells`` at ``level`` that may have descendants in the area, sorted."""
        if not len(cells):
            return cells
        whole, undecided = descend(self.region, cells, level)
        return bits.mixed_descendants(np.concatenate([*whole, undecided]), level)
