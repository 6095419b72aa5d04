"""What a finished grid says of itself: counts by resolution, how they compare with the area, and a STAC item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import shapely
from shapely.geometry import mapping

from services.h3.estimate import average_edge_metres
from services.h3.grid import Containment, GridSpec, Method
from services.h3.plan import GridPlan

DEFINITIONS = {
    Method.POLYFILL: "cells of each resolution that belong to the area by containment",
    Method.CASCADE: "all descendants of the base cells: covers those, not the area",
    Method.FILTERED_CASCADE: "descendants of the overlapping base cells, those that belong to the area by containment",
}


def summarise(plan: GridPlan, counts: Mapping[int, int], tick: Callable[[str], None]) -> dict[str, Any]:
    """The summary that is stored with the grid and returned by its job.

    Args:
        plan: the grid's plan.
        counts: cells stored, by resolution.
        tick: told what is being done, before each resolution.
    """
    spec = plan.spec
    resolutions = []
    for resolution in spec.resolutions:
        tick(f"comparing resolution {resolution} with the area")
        resolutions.append(
            {
                "resolution": resolution,
                "cells": counts[resolution],
                "average_edge_m": round(average_edge_metres(resolution), 3),
                **compare(plan, resolution, counts[resolution]),
            }
        )
    return {
        "grid_id": spec.grid_id,
        "method": str(spec.method),
        "definition": DEFINITIONS[spec.method],
        "containment": str(spec.containment),
        "area": {
            "label": spec.label,
            "source": spec.source,
            "km2": round(spec.area_km2, 3),
            "bbox": list(spec.bbox),
            "sha256": spec.boundary_sha256,
        },
        "cells": sum(counts.values()),
        "resolutions": resolutions,
        "notes": [*spec.notes, *_empty_notes(plan, counts)],
    }


def compare(plan: GridPlan, resolution: int, cells: int) -> dict[str, Any]:
    """Stored cells against those whose centre lies in the area: how many the grid misses, how many it adds."""
    wanted = _centres_inside(plan, resolution, cells)
    common = _in_both(plan, resolution, cells, wanted)
    missing, extra = wanted - common, cells - common
    return {
        "centres_in_area": wanted,
        "missing": missing,
        "extra": extra,
        "missing_percent": round(100 * missing / wanted, 4) if wanted else 0.0,
        "extra_percent": round(100 * extra / wanted, 4) if wanted else (100.0 if extra else 0.0),
    }


def _centres_inside(plan: GridPlan, resolution: int, cells: int) -> int:
    if plan.spec.method is Method.POLYFILL and plan.spec.containment is Containment.CENTER:
        return cells
    return plan.polyfill_count(resolution, Containment.CENTER)


def _in_both(plan: GridPlan, resolution: int, cells: int, wanted: int) -> int:
    match plan.spec.method, plan.spec.containment:
        case ((Method.POLYFILL | Method.FILTERED_CASCADE), (Containment.CENTER | Containment.FULL)):
            return cells  # a cell that lies in the area has its centre there
        case Method.POLYFILL, Containment.OVERLAP:
            return wanted  # a cell whose centre lies in the area overlaps it
        case _:
            return plan.cascade_count(resolution, Containment.CENTER)


def _empty_notes(plan: GridPlan, counts: Mapping[int, int]) -> list[str]:
    notes = []
    for resolution, cells in counts.items():
        if not cells:
            overlapping = plan.polyfill_count(resolution, Containment.OVERLAP)
            notes.append(
                f"resolution {resolution}: no cell belongs to the area by containment {plan.spec.containment}; "
                f"{overlapping} overlap it"
            )
    return notes


def stac_item(spec: GridSpec, counts: Mapping[int, int], assets: Mapping[str, Any]) -> dict[str, Any]:
    """A STAC 1.1 item for the grid. Its footprint is the area's bounding box, cut at the antimeridian."""
    west, south, east, north = spec.bbox
    if west <= east:
        footprint = shapely.box(west, south, east, north)
    else:
        footprint = shapely.multipolygons(
            [shapely.box(west, south, 180.0, north), shapely.box(-180.0, south, east, north)]
        )
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": spec.grid_id,
        "geometry": mapping(footprint),
        "bbox": list(spec.bbox),
        "properties": {
            "datetime": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "title": f"H3 grid of {spec.label}",
            "description": DEFINITIONS[spec.method],
            "h3:method": str(spec.method),
            "h3:containment": str(spec.containment),
            "h3:resolutions": list(spec.resolutions),
            "h3:cells": {str(resolution): cells for resolution, cells in counts.items()},
        },
        "links": [],
        "assets": dict(assets),
    }
