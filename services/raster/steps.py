"""The steps behind the handlers: each opens one GDAL environment and does one thing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.acquire import source_of, source_to_inspect, tidied
from services.raster.cog import Cog, Order, Workplace, clear_scratch, create_cog
from services.raster.cog_options import options_for
from services.raster.footprint import footprint
from services.raster.gdal import gdal_environment
from services.raster.outputs import Outputs, outputs_beside, outputs_for, publish_bytes, safe_stem, sha256_of
from services.raster.parameters import (
    CreateCog,
    CreateStacItem,
    ItemParameters,
    ProcessRaster,
    RasterType,
    ValidateRaster,
)
from services.raster.profile import read_profile
from services.raster.source import Source, open_source
from services.raster.stac import build_item, moment_of
from services.raster.statistics import sample_windows, valid_mask
from services.raster.tally import Tally
from services.raster.thumbnail import render
from services.raster.validation import Validation, validate
from services.raster.watch import StopRequested


def run_validation(params: ValidateRaster, context: DockerTaskContext) -> dict[str, Any]:
    """``validate_raster``: the facts of a raster, or a refusal."""
    with gdal_environment(), tidied(context):
        source = source_to_inspect(params.source_url, context, subdataset=params.subdataset)
        validation = validate(source, input_crs=params.input_crs)
    context.report_progress(100, f"valid: {validation.detection.detected_type.value}")
    return {"success": True, **validation.as_dict()}


def run_cog(params: CreateCog, context: DockerTaskContext) -> dict[str, Any]:
    """``create_cog``: the COG's facts, or a refusal."""
    try:
        with gdal_environment(), tidied(context):
            source = source_of(params.source_url, context, subdataset=params.subdataset)
            validation = validate(source, input_crs=params.input_crs)
            outputs = outputs_for(params.output_name or safe_stem(source.name), params.output_dir, context)
            cog = make_cog(params, context, source, validation, outputs, phase=1)
            address = outputs.deliver(cog.path, context, sha256=cog.sha256)
            outputs.forget_staged()
    except StopRequested:
        return context.interrupted()
    clear_scratch(context)
    context.report_progress(100, f"{cog.path.name}: {cog.size} bytes")
    return {"success": True, **cog.as_dict(), "path": address}


def make_cog(
    params: CreateCog | ProcessRaster,
    context: DockerTaskContext,
    source: Source,
    validation: Validation,
    outputs: Outputs,
    *,
    phase: int,
) -> Cog:
    """The COG of a validated raster, at its place among the outputs; its tiles are items of ``phase``.

    Raises:
        RasterError: when it cannot be made.
        StopRequested: when the task was asked to stop.
    """
    order = order_for(params, source, validation)
    place = Workplace.of(context, phase=phase, total_pixels=order.profile.width * order.profile.height)
    return create_cog(order, outputs.cog, place)


def order_for(params: CreateCog | ProcessRaster, source: Source, validation: Validation) -> Order:
    """What is to be made of a validated raster.

    Raises:
        RasterError: OPTION_NOT_ALLOWED when what was asked for does not fit it.
    """
    raster_type: RasterType = params.raster_type or validation.detection.detected_type
    return Order(
        source=source,
        profile=validation.profile,
        options=options_for(params, validation.profile, raster_type),
        raster_type=raster_type,
        target_crs=params.target_crs,
        tile_side=params.tile_size if isinstance(params, ProcessRaster) else None,
    )


def run_stac(params: CreateStacItem, context: DockerTaskContext) -> dict[str, Any]:
    """``create_stac_item``: the item's facts, or a refusal."""
    try:
        with gdal_environment(), tidied(context):
            cog = source_of(params.cog_path, context, field="cog_path")
            outputs = outputs_beside(cog.address, cog.path.with_name(cog.name), context)
            raster_type = params.raster_type or validate(cog).detection.detected_type
            described = describe(cog, raster_type, params, outputs, context)
            for file in (outputs.thumbnail, outputs.item):
                outputs.deliver(file, context)
    except StopRequested:
        return context.interrupted()
    outputs.forget_staged()
    described = with_addresses(described, outputs)
    described["cog"]["path"] = cog.address
    context.report_progress(100, f"{described['stac']['path']}")
    return {"success": True, **described, **({"before": params.before} if params.before is not None else {})}


def with_addresses(described: Mapping[str, Any], outputs: Outputs) -> dict[str, Any]:
    """``described`` with the addresses that its files have for readers, instead of paths of this machine."""
    return {part: _addressed(facts, outputs) for part, facts in described.items()}


def _addressed(facts: Mapping[str, Any], outputs: Outputs) -> dict[str, Any]:
    known = {name: Path(facts[name]) for name in ("path", "directory") if name in facts}
    here = {name: path for name, path in known.items() if path.is_relative_to(outputs.directory)}
    return {**facts, **{name: outputs.address_of(path) for name, path in here.items()}}


def describe(
    source: Source,
    raster_type: RasterType,
    params: ItemParameters,
    outputs: Outputs,
    context: DockerTaskContext,
    *,
    histograms: Sequence[Mapping[str, Any] | None] = (),
) -> dict[str, Any]:
    """Write the STAC item and the thumbnail of the COG ``source`` to ``outputs``; what was written, as JSON-ready data.

    Raises:
        RasterError: when the COG cannot be read, placed on Earth or described.
    """
    path = source.path
    with open_source(source) as cog:
        profile = read_profile(cog, input_crs=None, file_bytes=path.stat().st_size)
        size, digest = path.stat().st_size, sha256_of(path)
        thumbnail = write_thumbnail(cog, raster_type, outputs, context)
        item = build_item(
            cog,
            name=source.name,
            size=size,
            sha256=digest,
            profile=profile,
            footprint=footprint(profile),
            raster_type=raster_type,
            item_id=params.item_id or source.stem,
            moment=moment_of(cog, path, params.acquired),
            thumbnail=outputs.thumbnail.name,
            created=datetime.now(UTC).replace(microsecond=0),
            histograms=histograms or histograms_of(cog),
            collection=None if params.collection is None else (params.collection, f"./{params.collection}.json"),
        )
    return {
        "cog": {"path": str(path), "size_bytes": size, "sha256": digest},
        "stac": {"id": item["id"], "bbox": item.get("bbox"), **write_json(item, outputs.item, context)},
        "thumbnail": thumbnail,
    }


def write_thumbnail(
    dataset: Any, raster_type: RasterType, outputs: Outputs, context: DockerTaskContext
) -> dict[str, Any]:
    """The quicklook of an open raster, written to its place among the outputs; its facts."""
    picture = render(dataset, raster_type)
    publish_bytes(picture.content, outputs.thumbnail, context.task_id)
    return {
        "path": str(outputs.thumbnail),
        "width": picture.width,
        "height": picture.height,
        "size_bytes": len(picture.content),
        "sha256": sha256(picture.content).hexdigest(),
    }


def write_json(document: Mapping[str, Any], path: Path, context: DockerTaskContext) -> dict[str, Any]:
    """A JSON document at ``path``; its facts."""
    content = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False).encode()
    publish_bytes(content, path, context.task_id)
    return {"path": str(path), "size_bytes": len(content), "sha256": sha256(content).hexdigest()}


def histograms_of(cog: Any) -> list[dict[str, Any] | None]:
    """Histograms of a COG that was made elsewhere: of every pixel, or of about four million where there are more."""
    windows, _ = sample_windows(cog)
    tallies = [Tally() for _ in cog.indexes]
    for window in windows:
        for band, tally in zip(cog.indexes, tallies, strict=True):
            values = cog.read(band, window=window)
            tally.add(values, valid_mask(cog, band, window, values))
    return [tally.histogram() for tally in tallies]
