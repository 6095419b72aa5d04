"""The steps behind the handlers: each opens one GDAL environment and does one thing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.acquire import source_of, source_to_inspect, tidied
from services.raster.cog import Cog, create_cog, passes
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
from services.raster.stac import build_item
from services.raster.thumbnail import render
from services.raster.validation import Validation, validate
from services.raster.watch import StopRequested, Watch


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
            outputs = outputs_for(safe_stem(source.name), params.output_dir, context)
            cog = make_cog(params, context, source, validation, outputs)
            address = outputs.deliver(cog.path, context, sha256=cog.sha256)
            outputs.forget_staged()
    except StopRequested:
        return context.interrupted()
    context.report_progress(100, f"{cog.path.name}: {cog.size} bytes")
    return {"success": True, **cog.as_dict(), "path": address}


def make_cog(
    params: CreateCog | ProcessRaster,
    context: DockerTaskContext,
    source: Source,
    validation: Validation,
    outputs: Outputs,
) -> Cog:
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
        source,
        outputs.cog,
        profile=profile,
        options=options,
        raster_type=raster_type,
        target_crs=params.target_crs,
        owner=context.task_id,
        watch=Watch(context, total_pixels=total),
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
    return {"success": True, **described}


def with_addresses(described: dict[str, Any], outputs: Outputs) -> dict[str, Any]:
    """``described`` with the addresses that its files have for readers, instead of paths of this machine."""
    return {
        part: {**facts, "path": outputs.address_of(Path(facts["path"]))}
        if Path(facts["path"]).is_relative_to(outputs.directory)
        else dict(facts)
        for part, facts in described.items()
    }


def describe(
    source: Source, raster_type: RasterType, params: ItemParameters, outputs: Outputs, context: DockerTaskContext
) -> dict[str, Any]:
    """Write the STAC item and the thumbnail of the COG ``source`` to ``outputs``; what was written, as JSON-ready data.

    Raises:
        RasterError: when the COG cannot be read, placed on Earth or described.
    """
    path = source.path
    with open_source(source) as cog:
        profile = read_profile(cog, input_crs=None, file_bytes=path.stat().st_size)
        size, digest = path.stat().st_size, sha256_of(path)
        picture = render(cog, raster_type)
        publish_bytes(picture.content, outputs.thumbnail, context.task_id)
        item = build_item(
            cog,
            path=path,
            name=source.name,
            size=size,
            sha256=digest,
            profile=profile,
            footprint=footprint(profile),
            raster_type=raster_type,
            item_id=params.item_id or source.stem,
            acquired=params.acquired,
            thumbnail=outputs.thumbnail,
            created=datetime.now(UTC).replace(microsecond=0),
        )
    content = json.dumps(item, indent=2, allow_nan=False, ensure_ascii=False).encode()
    publish_bytes(content, outputs.item, context.task_id)
    return {
        "cog": {"path": str(path), "size_bytes": size, "sha256": digest},
        "stac": {
            "path": str(outputs.item),
            "id": item["id"],
            "bbox": item.get("bbox"),
            "size_bytes": len(content),
            "sha256": sha256(content).hexdigest(),
        },
        "thumbnail": {
            "path": str(outputs.thumbnail),
            "width": picture.width,
            "height": picture.height,
            "size_bytes": len(picture.content),
            "sha256": sha256(picture.content).hexdigest(),
        },
    }
