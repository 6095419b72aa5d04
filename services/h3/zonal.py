"""Accumulators of zonal statistics: pixels come in any order and number, memory follows the cells alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.h3.bits import Cells
from services.h3.ports import CellStatistics

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class ZonalStatistics:
    """Statistics of a fixed, sorted set of cells.

    ``sum`` is the sum of weight times value and ``mean`` that sum over the weights. The mode is the value with the
    largest weight, the smaller one of equals.
    """

    def __init__(self, cells: Cells, *, categorical: bool) -> None:
        size = len(cells)
        self.cells = cells
        self._categories = _Categories() if categorical else None
        self._count = np.zeros(size, dtype=np.int64)
        self._weight = np.zeros(size)
        self._sum = np.zeros(size)
        self._min = np.full(size, np.inf)
        self._max = np.full(size, -np.inf)

    def locate(self, cells: Cells) -> tuple[NDArray[np.bool_], Indices]:
        """Which of some cells are among these, and the places of those that are."""
        if not len(self.cells):
            return np.zeros(len(cells), dtype=bool), np.empty(0, dtype=np.intp)
        places = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
        known = self.cells[places] == cells
        return known, places[known]

    def add(self, places: Indices, values: Floats, weights: Floats) -> None:
        """Count values into the cells at ``places``; all three have one length."""
        size = len(self.cells)
        self._count += np.bincount(places, minlength=size)
        self._weight += np.bincount(places, weights, minlength=size)
        self._sum += np.bincount(places, weights * values, minlength=size)
        np.minimum.at(self._min, places, values)
        np.maximum.at(self._max, places, values)
        if self._categories is not None:
            self._categories.add(places, values, weights)

    def result(self) -> CellStatistics:
        """The statistics of those cells that have any pixel."""
        seen = np.flatnonzero(self._count)
        modes = np.full(len(self.cells), np.nan)
        if self._categories is not None:
            places, values = self._categories.modes()
            modes[places] = values
        return CellStatistics(
            cells=self.cells[seen],
            count=self._count[seen],
            weight=self._weight[seen],
            sum=self._sum[seen],
            mean=self._sum[seen] / self._weight[seen],
            min=self._min[seen],
            max=self._max[seen],
            mode=modes[seen],
        )


class _Categories:
    """The weight of each value in each cell, one row a pair that occurs."""

    def __init__(self) -> None:
        self._places: Indices = np.empty(0, dtype=np.intp)
        self._values: Floats = np.empty(0)
        self._weights: Floats = np.empty(0)

    def add(self, places: Indices, values: Floats, weights: Floats) -> None:
        places = np.concatenate([self._places, places])
        values = np.concatenate([self._values, values])
        weights = np.concatenate([self._weights, weights])
        order = np.lexsort((values, places))
        places, values, weights = places[order], values[order], weights[order]
        new = np.ones(len(places), dtype=bool)
        new[1:] = (places[1:] != places[:-1]) | (values[1:] != values[:-1])
        starts = np.flatnonzero(new)
        self._places, self._values = places[starts], values[starts]
        self._weights = np.add.reduceat(weights, starts) if len(starts) else weights

    def modes(self) -> tuple[Indices, Floats]:
        order = np.lexsort((self._values, -self._weights, self._places))
        places, values = self._places[order], self._values[order]
        first = np.ones(len(places), dtype=bool)
        first[1:] = places[1:] != places[:-1]
        return places[first], values[first]
