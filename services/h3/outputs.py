"""What a grid leaves on disk: exports, a picture and a STAC item, in a directory of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from services.h3 import exports, picture
from services.h3.containment import Region
from services.h3.grid import Grid
from services.h3.parameters import ExportFormat, ExportGrid
from services.h3.ports import GridStore, find_grid, grid_store
from services.h3.summary import stac_item

_EXPORT_PHASE = 1


def export(params: ExportGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Write a complete grid to files.

    Raises:
        PermanentError: GRID_UNKNOWN, GRID_INCOMPLETE or RESOLUTION_UNKNOWN.
    """
    store = grid_store(context)
    grid = complete_grid(store, params.grid_id)
    resolutions = params.resolutions or grid.spec.resolutions
    for resolution in resolutions:
        check_resolution(grid, resolution)
    files = _export(store, grid, context, params.formats, resolutions, phase=_EXPORT_PHASE, after_filling=False)
    if files is None:
        return context.interrupted(grid_id=params.grid_id)
    context.report_progress(100, f"{len(files)} files")
    return {"success": True, "grid_id": params.grid_id, "files": files}


def complete_grid(store: GridStore, grid_id: str) -> Grid:
    """The grid of that id, which must be complete.

    Raises:
        PermanentError: GRID_UNKNOWN or GRID_INCOMPLETE.
    """
    grid = find_grid(store, grid_id)
    if not grid.complete:
        raise PermanentError(f"grid_id: {grid_id!r} is still being made", code="GRID_INCOMPLETE")
    return grid


def check_resolution(grid: Grid, resolution: int) -> None:
    """Refuse a resolution that the grid does not have (RESOLUTION_UNKNOWN)."""
    if resolution not in grid.spec.resolutions:
        known = ", ".join(map(str, grid.spec.resolutions))
        raise PermanentError(
            f"resolution: grid {grid.spec.grid_id!r} has no resolution {resolution}; it has {known}",
            code="RESOLUTION_UNKNOWN",
            details={"given": resolution, "known": list(grid.spec.resolutions)},
        )


def write(
    store: GridStore,
    grid: Grid,
    context: DockerTaskContext,
    formats: Sequence[ExportFormat],
    *,
    region: Region,
    with_picture: bool,
) -> dict[str, Any] | None:
    """The outputs of a bootstrap: what to add to its result, or None when asked to stop before the end."""
    phase = len(grid.spec.resolutions) + 2
    files = (
        _export(store, grid, context, formats, grid.spec.resolutions, phase=phase, after_filling=True)
        if formats
        else {}
    )
    if files is None:
        return None
    directory = output_directory(context, grid)
    assets: dict[str, Any] = {
        name: {"href": facts["path"], "type": facts["media_type"], "roles": ["data"]} for name, facts in files.items()
    }
    result: dict[str, Any] = {"files": files}
    if with_picture:
        context.report_progress(99, "drawing the map")
        path = directory / f"{grid.spec.grid_id}.png"
        picture.draw(grid.spec, region, lambda resolution: store.cells(grid, resolution), path)
        result["picture"] = str(path)
        assets["overview"] = {"href": str(path), "type": "image/png", "roles": ["overview"]}
    counts = {entry["resolution"]: entry["cells"] for entry in (grid.summary or {})["resolutions"]}
    item = stac_item(grid.spec, counts, assets)
    stac = directory / f"{grid.spec.grid_id}.json"
    stac.write_text(json.dumps(item, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return {**result, "stac": str(stac)}


def output_directory(context: DockerTaskContext, grid: Grid) -> Path:
    """``<output_dir>/h3/<grid id>``, made if need be; in the task's own directory where no output_dir is offered."""
    root = Path(context.services.get("output_dir") or context.work_dir)
    directory = root / "h3" / grid.spec.grid_id
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _export(
    store: GridStore,
    grid: Grid,
    context: DockerTaskContext,
    formats: Sequence[ExportFormat],
    resolutions: Sequence[int],
    *,
    phase: int,
    after_filling: bool,
) -> dict[str, Mapping[str, Any]] | None:
    """A file for each format and resolution, recorded as items of the checkpoint; None when asked to stop."""
    log = context.checkpoint.items(phase)
    files: dict[str, Mapping[str, Any]] = {}
    wanted = [(kind, resolution) for kind in formats for resolution in resolutions]
    for at, (kind, resolution) in enumerate(wanted):
        name = f"{kind}_r{resolution:02d}"
        known = log.get(name)
        if known is not None and Path(known["path"]).is_file():
            files[name] = known
            continue
        if context.should_stop():
            log.flush()
            return None
        path = output_directory(context, grid) / f"{grid.spec.grid_id}_r{resolution:02d}{exports.SUFFIXES[kind]}"
        context.report_progress(99 if after_filling else 100 * at / len(wanted), f"writing {path.name}")
        cells = exports.write(kind, path, store.cells(grid, resolution), resolution)
        files[name] = {
            "path": str(path),
            "media_type": exports.MEDIA_TYPES[kind],
            "cells": cells,
            "bytes": path.stat().st_size,
        }
        log.mark(name, files[name])
    log.flush()
    return files
