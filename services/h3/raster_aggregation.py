"""Zonal statistics of a raster for every cell of one resolution of a grid.

The work is cut by cells, not by pixels: a batch is the grid's own batch of cells, and all pixels that can lie in one of
its units are read for it, strip by strip. So a batch is complete in itself and saved exactly once, and nothing has to
be carried over a kill; pixels along the sides of units are read more than once, and counted once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from services.h3 import bits, geodesy
from services.h3.bits import Cells
from services.h3.grid import Grid
from services.h3.outputs import check_resolution, complete_grid
from services.h3.parameters import AggregateRaster, Assignment, Weighting
from services.h3.plan import GridPlan
from services.h3.ports import BatchId, CellStatistics, GridStore, grid_store
from services.h3.raster_band import Floats, RasterBand, Window, apart
from services.h3.zonal import ZonalStatistics
from services.raster.acquire import source_of, tidied
from services.raster.gdal import gdal_environment
from services.raster.source import Source, open_source

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_PIXELS_PER_CELL = 3.0  # with fewer, many cells would hold no pixel's centre


def aggregate(params: AggregateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Compute and store the statistics, or go on where an earlier attempt stopped.

    Raises:
        PermanentError: for an unknown grid, resolution or band, or a raster that cannot be used.
    """
    store = grid_store(context)
    grid = complete_grid(store, params.grid_id)
    check_resolution(grid, params.resolution)
    with gdal_environment(), tidied(context), _opened(params, context) as (source, dataset):
        band = RasterBand(dataset, params.band)
        if params.categorical and not band.categorical:
            raise PermanentError(
                f"categorical: band {params.band} holds {dataset.dtypes[params.band - 1]}, a mode needs whole numbers",
                code="NOT_CATEGORICAL",
            )
        assignment = assigned(params, band)
        name = params.name or default_name(params, source, assignment)
        if params.replace and not context.checkpoint.should_skip(1):
            store.delete_statistics(grid, name)
        context.checkpoint.save(1, {"name": name})
        if not _Aggregation(store, grid, params, band, assignment=assignment, name=name).run(context):
            return context.interrupted(grid_id=params.grid_id, name=name)
    result = _totals(store.statistics(grid, name))
    cells = {entry["resolution"]: entry["cells"] for entry in (grid.summary or {})["resolutions"]}[params.resolution]
    context.report_progress(100, f"{result['cells']:,} cells with data")
    return {
        "success": True,
        "grid_id": params.grid_id,
        "resolution": params.resolution,
        "name": name,
        "assignment": str(assignment),
        "weighting": str(params.weighting),
        **result,
        "cells_without_data": cells - result["cells"],
    }


@contextmanager
def _opened(params: AggregateRaster, context: DockerTaskContext) -> Iterator[tuple[Source, DatasetReader]]:
    source = source_of(params.source_url, context)
    with open_source(source) as dataset:
        yield source, dataset


def assigned(params: AggregateRaster, band: RasterBand) -> Assignment:
    """The assignment with ``auto`` decided by the sizes of cells and pixels."""
    if params.assignment is not Assignment.AUTO:
        return params.assignment
    import h3

    cell = float(h3.average_hexagon_area(params.resolution, unit="m^2"))
    return Assignment.PIXEL_CENTERS if cell >= _PIXELS_PER_CELL * band.pixel_area() else Assignment.CELL_CENTERS


def default_name(params: AggregateRaster, source: Source, assignment: Assignment) -> str:
    """A name that changes with the raster's content (its size and time of change) and with every option."""
    options = f"{source.address}|{source.version}|{params.categorical}|{params.weighting}|{assignment}"
    short = hashlib.sha256(options.encode()).hexdigest()[:8]
    return f"{source.stem[:100]}-b{params.band}-r{params.resolution}-{short}"


class _Aggregation:
    """One set of statistics, batch by batch."""

    def __init__(
        self,
        store: GridStore,
        grid: Grid,
        params: AggregateRaster,
        band: RasterBand,
        *,
        assignment: Assignment,
        name: str,
    ) -> None:
        self._store, self._grid, self._params, self._band = store, grid, params, band
        self._assignment, self._name = assignment, name
        self._plan = GridPlan(grid.spec)

    def run(self, context: DockerTaskContext) -> bool:
        """Do the batches that are not there; False when asked to stop before the end."""
        resolution = self._params.resolution
        done = self._store.statistics_batches(self._grid, self._name)
        total = self._plan.batches(resolution)
        for number in range(total):
            batch = BatchId(resolution, number)
            if batch in done:
                continue
            if context.should_stop():
                return False
            self._store.save_statistics(self._grid, self._name, batch, self._batch(number))
            context.report_progress(
                message=f"batch {number + 1} of {total}", done=number + 1, total=total + 1, unit="batches"
            )
        return True

    def _batch(self, number: int) -> CellStatistics:
        chunks = list(self._plan.rows(self._params.resolution, number))
        cells = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64)
        units = self._plan.units(self._params.resolution, number)
        level = int(bits.resolution_of(units[:1])[0]) if len(units) else 0
        owners = bits.parents(cells, level)
        parts = [self._unit(unit, cells[owners == unit], level) for unit in units]
        return _concatenated(parts)

    def _unit(self, unit: np.int64, cells: Cells, level: int) -> CellStatistics:
        statistics = ZonalStatistics(cells, categorical=self._params.categorical)
        if len(cells):
            match self._assignment:
                case Assignment.CELL_CENTERS:
                    self._add_centres(statistics)
                case _:
                    self._add_pixels(statistics, np.asarray([unit]), level)
        return statistics.result()

    def _add_pixels(self, statistics: ZonalStatistics, unit: Cells, level: int) -> None:
        boxes = geodesy.descendant_boxes(unit, level)
        windows = [window for box in (*boxes.main, *boxes.rest) for window in self._band.windows(*box.bounds)]
        for window in apart(windows):
            for strip in window.strips(self._params.window_pixels):
                longitudes, latitudes, values, valid = self._band.read(strip)
                pixels = np.flatnonzero(valid)
                found = geodesy.cells_at(longitudes[pixels], latitudes[pixels], self._params.resolution)
                known, places = statistics.locate(found)
                pixels = pixels[known]
                statistics.add(places, values[pixels], self._weights(strip, pixels))

    def _add_centres(self, statistics: ZonalStatistics) -> None:
        longitudes, latitudes = geodesy.centres(statistics.cells)
        rows, columns = self._band.sample(longitudes, latitudes)
        hit = np.flatnonzero(rows >= 0)
        if not len(hit):
            return
        whole = Window(rows[hit].min(), rows[hit].max() + 1, columns[hit].min(), columns[hit].max() + 1)
        for strip in whole.strips(self._params.window_pixels):
            here = hit[(rows[hit] >= strip.row) & (rows[hit] < strip.row_end)]
            _, _, values, valid = self._band.read(strip)
            at = (rows[here] - strip.row) * (strip.column_end - strip.column) + columns[here] - strip.column
            here, at = here[valid[at]], at[valid[at]]
            statistics.add(here, values[at], self._weights(strip, at))

    def _weights(self, strip: Window, pixels: NDArray[np.intp]) -> Floats:
        match self._params.weighting:
            case Weighting.PIXEL:
                return np.ones(len(pixels))
            case Weighting.AREA:
                return self._band.areas(strip)[pixels]


def _concatenated(parts: list[CellStatistics]) -> CellStatistics:
    names = ("cells", "count", "weight", "sum", "mean", "min", "max", "mode")
    empty = ZonalStatistics(np.empty(0, dtype=np.int64), categorical=False).result()
    every = [*parts, empty]
    return CellStatistics(**{name: np.concatenate([getattr(part, name) for part in every]) for name in names})


def _totals(chunks: Iterable[CellStatistics]) -> dict[str, Any]:
    cells = pixels = 0
    weight = weighted = 0.0
    low, high = np.inf, -np.inf
    for chunk in chunks:
        cells += len(chunk.cells)
        pixels += int(chunk.count.sum())
        weight += float(chunk.weight.sum())
        weighted += float(chunk.sum.sum())
        low, high = min(low, float(chunk.min.min())), max(high, float(chunk.max.max()))
    return {
        "cells": cells,
        "pixels": pixels,
        "mean": weighted / weight if weight else None,
        "min": low if cells else None,
        "max": high if cells else None,
    }
