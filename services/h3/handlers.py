"""The H3 task types by name. Each loads its libraries when it runs, so that registering them costs nothing."""

from __future__ import annotations

from typing import Any

from core.docker_context import DockerTaskContext
from core.handlers import HandlerSpec
from services.h3.parameters import AggregateRaster, BootstrapGrid, ExportGrid, FanOutGrid, FillBatches, FinalizeGrid


def h3_bootstrap_complete(params: BootstrapGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Base cells, every resolution and the summary of a grid, checkpointed."""
    from services.h3 import bootstrap

    return bootstrap.complete(params, context)


def h3_validate_area(params: BootstrapGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Resolve the area and estimate the grid, without storing anything."""
    from services.h3 import bootstrap

    return bootstrap.validate(params, context)


def h3_bootstrap_base(params: FanOutGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Begin a grid and say how many batches each resolution has."""
    from services.h3 import fanout

    return fanout.begin(params, context)


def h3_cascade_batch(params: FillBatches, context: DockerTaskContext) -> dict[str, Any]:
    """Fill a run of batches of one resolution."""
    from services.h3 import fanout

    return fanout.fill(params, context)


def h3_finalize(params: FinalizeGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Check, index and publish a filled grid, with its summary, picture and exports."""
    from services.h3 import fanout

    return fanout.finalize(params, context)


def h3_export(params: ExportGrid, context: DockerTaskContext) -> dict[str, Any]:
    """Write a complete grid to files."""
    from services.h3 import outputs

    return outputs.export(params, context)


def h3_raster_aggregation(params: AggregateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Zonal statistics of a raster band for every cell of one resolution."""
    from services.h3 import raster_aggregation

    return raster_aggregation.aggregate(params, context)


HANDLERS: tuple[HandlerSpec, ...] = (
    HandlerSpec(
        task_type="h3_bootstrap_complete",
        handler=h3_bootstrap_complete,
        parameters=BootstrapGrid,
        description="Makes a whole H3 grid of an area: base cells, every resolution, summary.",
    ),
    HandlerSpec(
        task_type="h3_validate_area",
        handler=h3_validate_area,
        parameters=BootstrapGrid,
        description="Checks an area and estimates its grid.",
    ),
    HandlerSpec(
        task_type="h3_bootstrap_base",
        handler=h3_bootstrap_base,
        parameters=FanOutGrid,
        description="Begins a grid that many workers fill.",
    ),
    HandlerSpec(
        task_type="h3_cascade_batch",
        handler=h3_cascade_batch,
        parameters=FillBatches,
        description="Fills a run of batches of a grid.",
    ),
    HandlerSpec(
        task_type="h3_finalize", handler=h3_finalize, parameters=FinalizeGrid, description="Publishes a filled grid."
    ),
    HandlerSpec(task_type="h3_export", handler=h3_export, parameters=ExportGrid, description="Writes a grid to files."),
    HandlerSpec(
        task_type="h3_raster_aggregation",
        handler=h3_raster_aggregation,
        parameters=AggregateRaster,
        description="Zonal statistics of a raster per cell of a grid.",
    ),
)
