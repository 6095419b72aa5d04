"""The steps behind the handlers: each opens one GDAL environment and does one thing."""

from __future__ import annotations

from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.gdal import gdal_environment
from services.raster.cog import Cog, create_cog, passes
from services.raster.cog_options import options_for
from services.raster.outputs import outputs_for
from services.raster.parameters import CreateCog, ProcessRaster, RasterType, ValidateRaster
from services.raster.validation import Validation, validate
from services.raster.watch import StopRequested, Watch


def run_validation(params: ValidateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """``validate_raster``: the facts of a raster, or a refusal."""
    with gdal_environment():
        validation = validate(params.source_url, input_crs=params.input_crs)
    context.report_progress(100, f"valid: {validation.detection.detected_type.value}")
    return {"success": True, **validation.as_dict()}


def run_cog(params: CreateCog, context: DockerTaskContext) -> dict[str, Any]:
    """``create_cog``: the COG's facts, or a refusal."""
    with gdal_environment():
        validation = validate(params.source_url, input_crs=params.input_crs)
        try:
            cog = make_cog(params, context, validation)
        except StopRequested:
            return context.interrupted()
    context.report_progress(100, f"{cog.path.name}: {cog.size} bytes")
    return {"success": True, **cog.as_dict()}


def make_cog(params: CreateCog | ProcessRaster, context: DockerTaskContext, validation: Validation) -> Cog:
    """The COG of a validated raster, at its place among the outputs.

    Raises:
        RasterError: when it cannot be made.
        StopRequested: when the task was asked to stop.
    """
    profile = validation.profile
    raster_type: RasterType = params.raster_type or validation.detection.detected_type
    options = options_for(params, profile, raster_type)
    total = profile.width * profile.height * passes(profile, options, params.target_crs)
    return create_cog(
        params.source_url,
        outputs_for(params.source_url, params.output_dir, context).cog,
        profile=profile,
        options=options,
        raster_type=raster_type,
        target_crs=params.target_crs,
        owner=context.task_id,
        watch=Watch(context, total_pixels=total),
    )
