"""Making a grid in one task: base cells, each resolution in batches, then check, publish and outputs.

Phases of the checkpoint: 1 is the area, the estimate and the base cells, then one for each further resolution, then
publishing, then outputs. Within a resolution the store knows which batches are done: a kill costs at most the batch
that was being saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from core.jobs import canonical_json
from services.h3 import outputs
from services.h3.area import Area, resolve_area
from services.h3.area_file import read_through
from services.h3.estimate import Estimate, estimate_cells, total
from services.h3.grid import Grid, GridSpec, Method
from services.h3.parameters import BootstrapGrid, ExportFormat
from services.h3.plan import GridPlan
from services.h3.ports import BatchId, GridInconsistent, GridStore, find_grid, grid_store
from services.h3.summary import summarise


def complete(params: BootstrapGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Make the whole grid, or go on where an earlier attempt stopped.

    Raises:
        PermanentError: for an unusable area, TOO_MANY_CELLS, EMPTY_GRID, GRID_EXISTS.
    """
    store = grid_store(context)
    if context.checkpoint.should_skip(1):
        grid = find_grid(store, context.checkpoint.get_data("grid_id"))
        plan, expected = GridPlan(grid.spec), context.checkpoint.get_data("expected", 0)
    else:
        plan, estimates = planned(params, context)
        grid, expected = store.begin(plan.spec, replace=params.replace), total(estimates)
    filling = Filling(store, grid, plan, context, expected=expected)
    for phase, resolution in enumerate(grid.spec.resolutions, start=1):
        if context.checkpoint.should_skip(phase):
            filling.skip(resolution)
            continue
        if not filling.fill(resolution, range(plan.batches(resolution))):
            return context.interrupted(grid_id=grid.spec.grid_id, cells=filling.cells)
        context.checkpoint.save(phase, {"grid_id": grid.spec.grid_id, "expected": expected})
    return finish(store, grid, plan, context, params.exports, picture=params.picture)


def validate(params: BootstrapGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Resolve the area and estimate its grid, without storing anything.

    Raises:
        PermanentError: for an unusable area, TOO_MANY_CELLS or EMPTY_GRID.
    """
    plan, estimates = planned(params, context)
    spec = plan.spec
    return {
        "success": True,
        "grid_id": spec.grid_id,
        "area": {"label": spec.label, "source": spec.source, "km2": round(spec.area_km2, 3), "bbox": list(spec.bbox)},
        "estimates": [dict(estimate.as_dict()) for estimate in estimates],
        "cells": total(estimates),
        "notes": list(spec.notes),
    }


def planned(params: BootstrapGrid, context: DockerTaskContext) -> tuple[GridPlan, list[Estimate]]:
    """The plan of the grid that is asked for, and how large it will be. Shows the estimate as progress.

    Raises:
        PermanentError: for an unusable area, TOO_MANY_CELLS or EMPTY_GRID.
    """
    area = resolve_area(
        params.area,
        repair=params.repair_geometry,
        expected_country=params.expected_country,
        read=read_through(context),
    )
    plan = GridPlan(specification(params, area))
    spec = plan.spec
    if spec.method is not Method.POLYFILL and not len(plan.base_cells):
        raise PermanentError(
            f"area: no base cell of resolution {spec.base_resolution} belongs to {spec.label} by containment "
            f"{spec.containment}; use containment overlap, or a finer base_resolution",
            code="EMPTY_GRID",
        )
    base = plan.base_cells if spec.method is not Method.POLYFILL else None
    estimates = estimate_cells(plan.region, base, spec.resolutions, method=spec.method, containment=spec.containment)
    _guard(params, spec, estimates)
    shown = _shown(estimates)
    context.logger.info(shown, extra={"action": "h3.estimated", "cells": total(estimates)})
    context.report_progress(0, shown, done=0, total=total(estimates), unit="cells")
    return plan, estimates


def specification(params: BootstrapGrid, area: Area) -> GridSpec:
    """The definition that parameters and area come to."""
    containment = params.resolved_containment
    decisive = [
        area.sha256,
        str(params.method),
        str(containment),
        params.base_resolution,
        list(params.resolutions),
        params.batch_cells,
    ]
    short = hashlib.sha256(canonical_json(decisive).encode()).hexdigest()[:8]
    label = "".join(letter if letter.isalnum() else "-" for letter in area.label.lower())[:40].strip("-") or "area"
    first, last = params.resolutions[0], params.resolutions[-1]
    return GridSpec(
        grid_id=params.grid_id or f"{label}-{params.method}-{containment}-r{first}-r{last}-{short}",
        method=params.method,
        containment=containment,
        base_resolution=params.base_resolution,
        resolutions=params.resolutions,
        batch_cells=params.batch_cells,
        label=area.label,
        source=area.source,
        boundary=area.wkb,
        bbox=area.bbox,
        area_km2=area.area_km2,
        notes=area.notes,
    )


def _guard(params: BootstrapGrid, spec: GridSpec, estimates: Sequence[Estimate]) -> None:
    cells = total(estimates)
    if cells > params.max_cells:
        sizes = [dict(estimate.as_dict()) for estimate in estimates]
        fitting = [each.resolution for each in estimates if each.cells <= params.max_cells]
        raise PermanentError(
            f"target_resolutions: the grid would have about {cells:,} cells, more than max_cells {params.max_cells:,}; "
            f"{'resolution ' + str(max(fitting)) + ' alone would fit' if fitting else 'no resolution would fit'}",
            code="TOO_MANY_CELLS",
            details={"estimates": sizes, "cells": cells, "max_cells": params.max_cells},
        )
    if all(estimate.high == 0 for estimate in estimates):
        raise PermanentError(
            f"area: no cell of resolutions {', '.join(map(str, spec.resolutions))} belongs to {spec.label} by"
            f" containment {spec.containment}: the area is smaller than the cells; use containment overlap, or finer"
            " resolutions",
            code="EMPTY_GRID",
            details={"area_km2": spec.area_km2, "estimates": [dict(estimate.as_dict()) for estimate in estimates]},
        )


def _shown(estimates: Sequence[Estimate]) -> str:
    each = ", ".join(f"r{one.resolution} {'' if one.exact else '~'}{one.cells:,}" for one in estimates)
    return f"estimated cells: {total(estimates):,} ({each})"


class Filling:
    """Fills batches, reports progress by cells and listens for a stop between batches."""

    def __init__(
        self, store: GridStore, grid: Grid, plan: GridPlan, context: DockerTaskContext, *, expected: int
    ) -> None:
        self._store, self._grid, self._plan, self._context = store, grid, plan, context
        self.expected = expected
        self.cells = 0

    def skip(self, resolution: int) -> None:
        """Count a resolution that is already there."""
        self.cells += sum(tally.cells for tally in self._store.batches(self._grid, resolution).values())

    def fill(self, resolution: int, numbers: range) -> bool:
        """Save those batches of ``numbers`` that are not there; False when asked to stop before the end."""
        known = self._store.batches(self._grid, resolution)
        self.cells += sum(known[number].cells for number in numbers if number in known)
        for number in numbers:
            if number in known:
                continue
            if self._context.should_stop():
                return False
            rows = partial(self._plan.rows, resolution, number)
            self.cells += self._store.save_batch(self._grid, BatchId(resolution, number), rows).cells
            self._context.report_progress(
                message=f"resolution {resolution}: batch {number + 1} of {numbers.stop}",
                done=self.cells,
                total=max(self.expected, self.cells) + 1,
                unit="cells",
            )
        return True


def finish(
    store: GridStore,
    grid: Grid,
    plan: GridPlan,
    context: DockerTaskContext,
    exports: Sequence[ExportFormat],
    *,
    picture: bool,
) -> dict[str, Any]:
    """Check and publish a filled grid, write its outputs, and return its summary."""
    phase = len(grid.spec.resolutions) + 1
    counts = counted(store, grid)

    def tick(message: str) -> None:
        context.report_progress(99, message)

    if not context.checkpoint.should_skip(phase):
        _check_batches(store, grid, plan)
        tick("checking and indexing the cells")
        grid = store.publish(grid, summarise(plan, counts, tick))
        context.checkpoint.save(phase)
    written = outputs.write(store, grid, context, exports, region=plan.region, with_picture=picture)
    if written is None:
        return context.interrupted(grid_id=grid.spec.grid_id)
    context.report_progress(100, f"{sum(counts.values()):,} cells")
    return {"success": True, **dict(grid.summary or {}), **written}


def _check_batches(store: GridStore, grid: Grid, plan: GridPlan) -> None:
    lacking = {
        resolution: plan.batches(resolution) - len(store.batches(grid, resolution))
        for resolution in grid.spec.resolutions
    }
    if any(lacking.values()):
        raise GridInconsistent(grid.spec.grid_id, {"batches missing": {str(k): v for k, v in lacking.items() if v}})


def counted(store: GridStore, grid: Grid) -> Mapping[int, int]:
    """How many cells are saved, by resolution."""
    return {
        resolution: sum(tally.cells for tally in store.batches(grid, resolution).values())
        for resolution in grid.spec.resolutions
    }
