"""``process_raster_complete``: validate, COG and STAC in one task that resumes after its last finished phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.gdal import gdal_environment
from services.raster.parameters import ProcessRaster, RasterType
from services.raster.steps import describe, make_cog
from services.raster.validation import validate
from services.raster.watch import StopRequested

VALIDATED, COG_MADE, DESCRIBED = 1, 2, 3


def process(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Run the phases that are not finished; what each found is kept in the checkpoint.

    Returns ``{"success": True, "validation", "cog", "stac", "thumbnail"}``, or ``context.interrupted()`` after a stop.

    Raises:
        RasterError: when the raster or a parameter must be refused.
    """
    with gdal_environment():
        try:
            validation = _validated(params, context)
            cog = _cog(params, context)
            described = _described(params, context, cog)
        except StopRequested:
            return context.interrupted()
    context.report_progress(100, "done")
    return {
        "success": True,
        "validation": validation,
        "cog": cog,
        "stac": described["stac"],
        "thumbnail": described["thumbnail"],
    }


def _validated(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    if context.checkpoint.should_skip(VALIDATED):
        return dict(context.checkpoint.get_data("validation"))
    _stop_here_if_asked(context)
    context.report_progress(0, "validating")
    found = validate(params.source_url, input_crs=params.input_crs).as_dict()
    context.checkpoint.save(VALIDATED, {"validation": found})
    return found


def _cog(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    if context.checkpoint.should_skip(COG_MADE):
        return dict(context.checkpoint.get_data("cog"))
    _stop_here_if_asked(context)
    made = make_cog(params, context, validate(params.source_url, input_crs=params.input_crs)).as_dict()
    context.checkpoint.save(COG_MADE, {"cog": made}, artifacts=[Path(made["path"])])
    return made


def _described(params: ProcessRaster, context: DockerTaskContext, cog: dict[str, Any]) -> dict[str, Any]:
    if context.checkpoint.should_skip(DESCRIBED):
        return dict(context.checkpoint.get_data("described"))
    _stop_here_if_asked(context)
    context.report_progress(99, "describing")
    described = describe(Path(cog["path"]), RasterType(cog["raster_type"]), params, context)
    written = [Path(described["stac"]["path"]), Path(described["thumbnail"]["path"])]
    context.checkpoint.save(DESCRIBED, {"described": described}, artifacts=written)
    return described


def _stop_here_if_asked(context: DockerTaskContext) -> None:
    if context.should_stop():
        raise StopRequested
