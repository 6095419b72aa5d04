"""The raster handlers and jobs. Imports neither GDAL nor numpy."""

from __future__ import annotations

from typing import Any

from core.handlers import HandlerSpec
from core.jobs import JobDefinition
from services.raster import handlers
from services.raster.collection_job import ProcessRasterCollection
from services.raster.jobs import ProcessRasterDocker, ProcessRasterTriggered, ProcessRasterV2
from services.raster.parameters import CollectRasters, CreateCog, CreateStacItem, ProcessRaster, ValidateRaster

HANDLERS: tuple[HandlerSpec, ...] = (
    HandlerSpec(
        task_type="validate_raster",
        handler=handlers.validate_raster,
        parameters=ValidateRaster,
        description="Inspects a raster: CRS, extent, bands, statistics, what kind it is, and what is wrong with it.",
    ),
    HandlerSpec(
        task_type="validate_and_trigger_docker",
        handler=handlers.validate_and_trigger_docker,
        parameters=ValidateRaster,
        description="Validates a raster before the Docker worker is woken up.",
    ),
    HandlerSpec(
        task_type="create_cog",
        handler=handlers.create_cog,
        parameters=CreateCog,
        description="Makes a Cloud Optimized GeoTIFF, validated and with its pixels checked.",
    ),
    HandlerSpec(
        task_type="create_stac_item",
        handler=handlers.create_stac_item,
        parameters=CreateStacItem,
        description="Writes a STAC item and a thumbnail beside a COG.",
    ),
    HandlerSpec(
        task_type="process_raster_complete",
        handler=handlers.process_raster_complete,
        parameters=ProcessRaster,
        description="Validate, COG and STAC in one resumable task.",
    ),
    HandlerSpec(
        task_type="collect_rasters",
        handler=handlers.collect_rasters,
        parameters=CollectRasters,
        description="Writes one STAC collection, mosaic and report over the rasters of a job.",
    ),
)
JOBS: tuple[JobDefinition[Any], ...] = (
    ProcessRasterV2(),
    ProcessRasterDocker(),
    ProcessRasterTriggered(),
    ProcessRasterCollection(),
)
