"""The steps behind the handlers: each opens one GDAL environment and does one thing."""

from __future__ import annotations

from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.gdal import gdal_environment
from services.raster.parameters import ValidateRaster
from services.raster.validation import validate


def run_validation(params: ValidateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """``validate_raster``: the facts of a raster, or a refusal."""
    with gdal_environment():
        validation = validate(params.source_url, input_crs=params.input_crs)
    context.report_progress(100, f"valid: {validation.detection.detected_type.value}")
    return {"success": True, **validation.as_dict()}
