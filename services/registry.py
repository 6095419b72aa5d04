"""All handlers and jobs that ship with this project. Light to import: handlers load GDAL and h3 when they run."""

from __future__ import annotations

from core.handlers import HandlerRegistry
from core.jobs import JobRegistry
from services import hello_world, single_task
from services.h3 import registry as h3
from services.raster import registry as raster


def handler_registry() -> HandlerRegistry:
    """Every task type."""
    return HandlerRegistry((*hello_world.HANDLERS, *raster.HANDLERS, *h3.HANDLERS))


def job_registry() -> JobRegistry:
    """Every job type, aliases included."""
    return JobRegistry(
        (*hello_world.JOBS, single_task.SingleTaskJob(), *raster.JOBS, *h3.JOBS),
        aliases={"process_raster_docker_http": "process_raster_triggered"},
    )
