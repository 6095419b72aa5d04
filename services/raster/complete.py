"""``process_raster_complete``: validate, COG and STAC in one task that resumes after its last finished phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.acquire import source_of, tidied
from services.raster.gdal import gdal_environment
from services.raster.outputs import Outputs, outputs_for, safe_stem
from services.raster.parameters import ProcessRaster, RasterType
from services.raster.source import Source
from services.raster.steps import describe, make_cog, with_addresses
from services.raster.validation import validate
from services.raster.watch import StopRequested

VALIDATED, COG_MADE, DESCRIBED, DELIVERED = 1, 2, 3, 4


def process(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Run the phases that are not finished; what each found is kept in the checkpoint.

    Returns ``{"success": True, "validation", "cog", "stac", "thumbnail"}``, or ``context.interrupted()`` after a stop.

    Raises:
        RasterError: when the raster or a parameter must be refused.
        StorageRefused: when the source may not be read, or the destination not be written.
        TransientError: when either cannot be reached now.
    """
    try:
        with gdal_environment(), tidied(context):
            validation = _validated(params, context)
            cog = _cog(params, context)
            outputs = outputs_for(Path(cog["path"]).stem, params.output_dir, context)
            described = _described(params, context, cog, outputs)
            _deliver(cog, described, outputs, context)
    except StopRequested:
        return context.interrupted()
    outputs.forget_staged()
    context.report_progress(100, "done")
    described = with_addresses(described, outputs)
    return {
        "success": True,
        "validation": validation,
        "cog": cog | {"path": outputs.address_of(Path(cog["path"]))},
        "stac": described["stac"],
        "thumbnail": described["thumbnail"],
    }


def _validated(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    if context.checkpoint.should_skip(VALIDATED):
        return dict(context.checkpoint.get_data("validation"))
    _stop_here_if_asked(context)
    context.report_progress(0, "validating")
    found = validate(_source(params, context), input_crs=params.input_crs).as_dict()
    context.checkpoint.save(VALIDATED, {"validation": found})
    return found


def _cog(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    if context.checkpoint.should_skip(COG_MADE):
        return dict(context.checkpoint.get_data("cog"))
    _stop_here_if_asked(context)
    source = _source(params, context)
    validation = validate(source, input_crs=params.input_crs)
    outputs = outputs_for(safe_stem(source.name), params.output_dir, context)
    made = make_cog(params, context, source, validation, outputs).as_dict()
    context.checkpoint.save(COG_MADE, {"cog": made}, artifacts=[Path(made["path"])])
    return made


def _described(
    params: ProcessRaster, context: DockerTaskContext, cog: dict[str, Any], outputs: Outputs
) -> dict[str, Any]:
    if context.checkpoint.should_skip(DESCRIBED):
        return dict(context.checkpoint.get_data("described"))
    _stop_here_if_asked(context)
    context.report_progress(99, "describing")
    made = Source.of_file(Path(cog["path"]))
    described = describe(made, RasterType(cog["raster_type"]), params, outputs, context)
    written = [Path(described["stac"]["path"]), Path(described["thumbnail"]["path"])]
    context.checkpoint.save(DESCRIBED, {"described": described}, artifacts=written)
    return described


def _deliver(cog: dict[str, Any], described: dict[str, Any], outputs: Outputs, context: DockerTaskContext) -> None:
    """Send everything on, the item last: nobody finds an item whose assets are not there."""
    if outputs.destination is None or context.checkpoint.should_skip(DELIVERED):
        return
    _stop_here_if_asked(context)
    for facts in (cog, described["thumbnail"], described["stac"]):
        outputs.deliver(Path(facts["path"]), context, sha256=facts["sha256"])
    context.checkpoint.save(DELIVERED)


def _source(params: ProcessRaster, context: DockerTaskContext) -> Source:
    return source_of(params.source_url, context, subdataset=params.subdataset)


def _stop_here_if_asked(context: DockerTaskContext) -> None:
    if context.should_stop():
        raise StopRequested
