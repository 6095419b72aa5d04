"""Making a grid with many workers: begin it, fill runs of batches side by side, publish it."""

from __future__ import annotations

from typing import Any

from core.docker_context import DockerTaskContext
from services.h3 import bootstrap
from services.h3.estimate import total
from services.h3.parameters import FanOutGrid, FillBatches, FinalizeGrid
from services.h3.plan import GridPlan
from services.h3.ports import find_grid, grid_store


def begin(params: FanOutGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Begin the grid, save its base cells and say how many batches every finer resolution has.

    Raises:
        PermanentError: for an unusable area, TOO_MANY_CELLS, EMPTY_GRID, GRID_EXISTS.
    """
    store = grid_store(context)
    plan, estimates = bootstrap.planned(params, context)
    grid = store.begin(plan.spec, replace=params.replace)
    filling = bootstrap.Filling(store, grid, plan, context, expected=total(estimates))
    first = grid.spec.base_resolution
    if not filling.fill(first, range(plan.batches(first))):
        return context.interrupted(grid_id=grid.spec.grid_id)
    context.report_progress(100, f"{filling.cells:,} base cells")
    return {
        "success": True,
        "grid_id": grid.spec.grid_id,
        "base_cells": filling.cells,
        "estimates": [dict(estimate.as_dict()) for estimate in estimates],
        "batches": [[step, plan.batches(step)] for step in grid.spec.resolutions if step != first],
    }


def fill(params: FillBatches, context: DockerTaskContext) -> dict[str, Any]:
    """Fill a run of batches. Two workers on the same batch save it once.

    Raises:
        PermanentError: GRID_UNKNOWN.
    """
    store = grid_store(context)
    grid = find_grid(store, params.grid_id)
    plan = GridPlan(grid.spec)
    numbers = range(params.first, params.first + params.batches)
    expected = sum(plan.most_cells(params.resolution, number) for number in numbers)
    filling = bootstrap.Filling(store, grid, plan, context, expected=expected)
    if not filling.fill(params.resolution, numbers):
        return context.interrupted(cells=filling.cells)
    context.report_progress(100, f"{filling.cells:,} cells")
    return {"success": True, "grid_id": params.grid_id, "resolution": params.resolution, "cells": filling.cells}


def finalize(params: FinalizeGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Check that every batch is there, publish the grid, write its outputs.

    Raises:
        PermanentError: GRID_UNKNOWN or GRID_INCONSISTENT.
    """
    store = grid_store(context)
    grid = find_grid(store, params.grid_id)
    return bootstrap.finish(store, grid, GridPlan(grid.spec), context, params.exports, picture=params.picture)
