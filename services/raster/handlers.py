"""The raster handlers. Light to import: each loads GDAL when it runs."""

from __future__ import annotations

from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.parameters import CollectRasters, CreateCog, CreateStacItem, ProcessRaster, ValidateRaster


def validate_raster(params: ValidateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Inspect a raster without reading all of it; see :func:`services.raster.validation.validate`."""
    from services.raster.steps import run_validation

    return run_validation(params, context)


def validate_and_trigger_docker(params: ValidateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Validate a raster at the door: when this completes, the machine plans the Docker stage and its dispatch commits
    with it; when it refuses, the job fails here and the Docker worker is never called.
    """
    return {**validate_raster(params, context), "triggers": "process_raster_complete"}


def create_cog(params: CreateCog, context: DockerTaskContext) -> dict[str, Any]:
    """Make a Cloud Optimized GeoTIFF; see :func:`services.raster.cog.create_cog`."""
    from services.raster.before import with_picture_before
    from services.raster.steps import run_cog

    return with_picture_before(params, context, lambda: run_cog(params, context))


def create_stac_item(params: CreateStacItem, context: DockerTaskContext) -> dict[str, Any]:
    """Describe a COG in a STAC item with a thumbnail; see :func:`services.raster.stac.build_item`."""
    from services.raster.steps import run_stac

    return run_stac(params, context)


def process_raster_complete(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Validate, COG and STAC in one task with checkpointed phases."""
    from services.raster.before import with_picture_before
    from services.raster.complete import process

    return with_picture_before(params, context, lambda: process(params, context))


def collect_rasters(params: CollectRasters, context: DockerTaskContext) -> dict[str, Any]:
    """One collection over the rasters of a job; see :mod:`services.raster.collect`."""
    from services.raster.collect import collect_rasters as collect

    return collect(params, context)
