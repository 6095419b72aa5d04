"""What a raster looked like before it was reprojected: a picture of the source beside the outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from core.errors import PermanentError, TransientError
from services.raster.acquire import source_of
from services.raster.gdal import gdal_environment
from services.raster.outputs import outputs_for, publish_bytes, safe_stem
from services.raster.parameters import CreateCog, ProcessRaster
from services.raster.source import open_source
from services.raster.thumbnail import render
from services.raster.validation import validate
from services.raster.watch import StopRequested

MOST_PIXELS = 64_000_000
"""Rasters without overviews are read whole for a picture: up to this size."""


def with_picture_before(
    params: CreateCog | ProcessRaster, context: DockerTaskContext, process: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The result of ``process``, with ``"before"`` when there is a picture; none is left when it does not succeed."""
    before = picture_before(params, context)
    if before is None:
        return process()
    finished = False
    try:
        result = process()
        finished = not result.get("interrupted")
    finally:
        if not finished:
            Path(before["path"]).unlink(missing_ok=True)
    return {**result, "before": before} if finished else result


def picture_before(params: CreateCog | ProcessRaster, context: DockerTaskContext) -> dict[str, Any] | None:
    """Draw the source as it is, when it is to be reprojected: ``{"path", "crs", "width", "height"}``.

    None when nothing is reprojected, when a picture would cost a long read, and when the source cannot be read: what
    is wrong with it is for the validation to say. A copy of a remote source stays for the work that follows.
    """
    if params.target_crs is None or context.should_stop():
        return None
    try:
        with gdal_environment():
            return _drawn(params, context)
    except (PermanentError, TransientError, StopRequested):
        return None


def _drawn(params: CreateCog | ProcessRaster, context: DockerTaskContext) -> dict[str, Any] | None:
    source = source_of(params.source_url, context, subdataset=params.subdataset)
    validation = validate(source, input_crs=params.input_crs)
    outputs = outputs_for(params.output_name or safe_stem(source.name), params.output_dir, context)
    file: Path = outputs.directory / f"{outputs.stem}.before.png"
    with open_source(source) as dataset:
        if dataset.width * dataset.height > MOST_PIXELS and not dataset.overviews(1):
            return None
        picture = render(dataset, params.raster_type or validation.detection.detected_type)
    publish_bytes(picture.content, file, context.task_id)
    return {
        "path": outputs.deliver(file, context),
        "crs": validation.profile.crs.to_string() if validation.profile.crs is not None else None,
        "width": picture.width,
        "height": picture.height,
    }
