"""``process_raster_complete``: validate, make a COG or tiles, describe: one task that resumes after its last finished
phase, and within the second one after its last finished tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.acquire import source_of, tidied
from services.raster.cog import Workplace, clear_scratch
from services.raster.describe_tiles import describe_tiles, tile_files
from services.raster.gdal import MIB, gdal_environment
from services.raster.mosaic import create_tiles
from services.raster.outputs import Outputs, outputs_for, safe_stem
from services.raster.parameters import ProcessRaster, RasterType
from services.raster.source import Source
from services.raster.steps import describe, make_cog, order_for, with_addresses
from services.raster.validation import Validation, validate
from services.raster.watch import StopRequested

VALIDATED, MADE, DESCRIBED, DELIVERED = 1, 2, 3, 4
DEFAULT_THRESHOLD_MB = 2048.0


def process(params: ProcessRaster, context: DockerTaskContext) -> dict[str, Any]:
    """Run the phases that are not finished; what each found is kept in the checkpoint.

    Returns ``{"success": True, "validation", "cog", "stac", "thumbnail"}``, with ``"tiles", "mosaic", "overview"`` in
    place of ``"cog"`` above the tiling threshold, or ``context.interrupted()`` after a stop.

    Raises:
        RasterError: when the raster or a parameter must be refused.
        StorageRefused: when the source may not be read, or the destination not be written.
        TransientError: when either cannot be reached now.
    """
    try:
        with gdal_environment(), tidied(context):
            validation, found = _validated(params, context)
            made, stem = _made(params, context, found)
            outputs = outputs_for(stem, params.output_dir, context)
            described = _described(params, context, made, outputs)
            result = {**made, "stac": described["stac"], "thumbnail": described["thumbnail"]}
            _deliver(result, outputs, context)
    except StopRequested:
        return context.interrupted()
    outputs.forget_staged()
    clear_scratch(context)
    context.report_progress(100, "done")
    return {"success": True, "validation": validation, **with_addresses(result, outputs)}


def is_tiled(params: ProcessRaster, validation: Validation, context: DockerTaskContext) -> bool:
    """Whether the declared size is above the threshold: the parameter's, else the worker's
    (``services["raster_tiling_threshold_mb"]``), else 2048 MiB.
    """
    threshold = params.tiling_threshold_mb
    if threshold is None:
        threshold = float(context.services.get("raster_tiling_threshold_mb", DEFAULT_THRESHOLD_MB))
    return validation.profile.declared_bytes > threshold * MIB


def _validated(params: ProcessRaster, context: DockerTaskContext) -> tuple[dict[str, Any], Validation | None]:
    """What validation says, and what it found when it was made now."""
    if context.checkpoint.should_skip(VALIDATED):
        return dict(context.checkpoint.get_data("validation")), None
    _stop_here_if_asked(context)
    context.report_progress(0, "validating")
    found = validate(_source(params, context), input_crs=params.input_crs)
    said = found.as_dict()
    context.checkpoint.save(VALIDATED, {"validation": said})
    return said, found


def _made(
    params: ProcessRaster, context: DockerTaskContext, validation: Validation | None
) -> tuple[dict[str, Any], str]:
    """The facts of the COG or of the tiles, and what the names of the outputs begin with."""
    if context.checkpoint.should_skip(MADE):
        kept = context.checkpoint.get_data("made")
        return dict(kept["facts"]), str(kept["stem"])
    _stop_here_if_asked(context)
    source = _source(params, context)
    validation = validation or validate(source, input_crs=params.input_crs)
    stem = params.output_name or safe_stem(source.name)
    outputs = outputs_for(stem, params.output_dir, context)
    if is_tiled(params, validation, context):
        total = validation.profile.width * validation.profile.height
        place = Workplace.of(context, phase=MADE, total_pixels=total)
        made = create_tiles(order_for(params, source, validation), outputs, place)
        artifacts = [Path(made["mosaic"]["path"]), Path(made["overview"]["path"])]
    else:
        cog = make_cog(params, context, source, validation, outputs, phase=MADE)
        made, artifacts = {"cog": cog.as_dict()}, [cog.path]
    context.checkpoint.save(MADE, {"made": {"facts": made, "stem": stem}}, artifacts=artifacts)
    return made, stem


def _described(
    params: ProcessRaster, context: DockerTaskContext, made: Mapping[str, Any], outputs: Outputs
) -> dict[str, Any]:
    if context.checkpoint.should_skip(DESCRIBED):
        return dict(context.checkpoint.get_data("described"))
    _stop_here_if_asked(context)
    context.report_progress(99, "describing")
    if "cog" in made:
        cog = made["cog"]
        file = Source.of_file(Path(cog["path"]))
        described = describe(
            file, RasterType(cog["raster_type"]), params, outputs, context, histograms=cog["histograms"]
        )
    else:
        finished = context.checkpoint.items(MADE).items()
        described = describe_tiles(made, _source(params, context), params, outputs, context, finished=finished)
    written = [Path(described["stac"]["path"]), Path(described["thumbnail"]["path"])]
    context.checkpoint.save(DESCRIBED, {"described": described}, artifacts=written)
    return described


def _deliver(result: Mapping[str, Any], outputs: Outputs, context: DockerTaskContext) -> None:
    """Send everything on, the item or collection last: nobody finds one whose assets are not there."""
    if outputs.destination is None or context.checkpoint.should_skip(DELIVERED):
        return
    _stop_here_if_asked(context)
    if "tiles" in result:
        for file in tile_files(outputs):
            outputs.deliver(file, context)
    for name in ("cog", "overview", "mosaic", "thumbnail", "stac"):
        if name in result:
            outputs.deliver(Path(result[name]["path"]), context, sha256=result[name]["sha256"])
    context.checkpoint.save(DELIVERED)


def _source(params: ProcessRaster, context: DockerTaskContext) -> Source:
    return source_of(params.source_url, context, subdataset=params.subdataset)


def _stop_here_if_asked(context: DockerTaskContext) -> None:
    if context.should_stop():
        raise StopRequested
