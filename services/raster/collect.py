"""The last step of ``process_raster_collection``: one STAC collection, one mosaic where the rasters fit together, and a
report that names each source that failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from affine import Affine

from core.docker_context import DockerTaskContext
from core.storage import storage_of
from services.raster.acquire import source_to_inspect, tidied
from services.raster.description import Description, Layout
from services.raster.errors import Code, RasterError
from services.raster.gdal import gdal_environment
from services.raster.outputs import Outputs, outputs_for, publish_bytes
from services.raster.parameters import CollectRasters
from services.raster.profile import parsed_crs
from services.raster.source import local_path, open_source
from services.raster.stac_collection import VRT_MEDIA_TYPE, build_collection, file_asset
from services.raster.steps import write_json
from services.raster.vrt_write import Piece, cover, mosaic_document
from services.raster.watch import StopRequested

_SAME_SIZE = 1e-6


def collect_rasters(params: CollectRasters, context: DockerTaskContext) -> dict[str, Any]:
    """Write collection, mosaic and report beside the rasters.

    Raises:
        RasterError: COLLECTION_EMPTY when not one source could be processed.
    """
    if not params.processed:
        raise RasterError(
            Code.COLLECTION_EMPTY,
            f"not one of {len(params.failed)} sources could be processed; "
            + "; ".join(f"{entry['source']}: {entry['message']}" for entry in params.failed[:3]),
            failed=[dict(entry) for entry in params.failed],
        )
    outputs = outputs_for(params.collection_id, params.output_dir, context)
    try:
        with gdal_environment(), tidied(context):
            result = _collected(params, outputs, context)
    except StopRequested:
        return context.interrupted()
    outputs.forget_staged()
    context.report_progress(100, f"{len(params.processed)} rasters, {len(params.failed)} failed")
    return result


def _collected(params: CollectRasters, outputs: Outputs, context: DockerTaskContext) -> dict[str, Any]:
    members: list[dict[str, Any]] = []
    for number, entry in enumerate(params.processed):
        context.report_progress(done=number, total=len(params.processed), unit="rasters", message="collecting")
        members.append(_document(str(entry["stac"]["path"]), context))
    mosaic, reason = _mosaic(params, outputs, context)
    written = [] if mosaic is None else [Path(mosaic["path"])]
    assets = {}
    if mosaic is not None:
        name = Path(mosaic["path"]).name
        assets["mosaic"] = file_asset(name, VRT_MEDIA_TYPE, "Mosaic (GDAL VRT)", ["data"], mosaic)
    collection = build_collection(
        collection_id=params.collection_id,
        description=params.description,
        items=members,
        hrefs=[str(entry["stac"]["path"]).rpartition("/")[2] for entry in params.processed],
        assets=assets,
        summaries={"geoworker:failed": len(params.failed)} if params.failed else {},
    )
    report = {
        "collection": params.collection_id,
        "sources": len(params.processed) + len(params.failed),
        "processed": [{"source": entry["source"], "stac": entry["stac"]["path"]} for entry in params.processed],
        "failed": [dict(entry) for entry in params.failed],
        "mosaic": None if mosaic is None else Path(mosaic["path"]).name,
        "no_mosaic_because": reason,
    }
    reported = write_json(report, outputs.directory / f"{params.collection_id}_report.json", context)
    stac = write_json(collection, outputs.item, context)
    for path in (*written, Path(reported["path"]), Path(stac["path"])):
        outputs.deliver(path, context)
    files = {"stac": {"id": params.collection_id, **stac}, "report": reported, "mosaic": mosaic}
    addressed = {
        name: facts if facts is None else {**facts, "path": outputs.address_of(Path(facts["path"]))}
        for name, facts in files.items()
    }
    return {
        "success": True,
        **addressed,
        "no_mosaic_because": reason,
        "sources": report["sources"],
        "processed": len(params.processed),
        "failed": report["failed"],
    }


def _document(address: str, context: DockerTaskContext) -> dict[str, Any]:
    """The STAC item or collection at ``address``."""
    storage = storage_of(context)
    if storage.is_remote(address):

        def watch(done: int, total: int | None) -> None:  # noqa: ARG001 - the port's signature
            if context.should_stop():
                raise StopRequested

        directory = context.work_dir / "items"
        directory.mkdir(parents=True, exist_ok=True)
        path = storage.fetch(address, directory, field="stac", watch=watch).path
    else:
        path = storage.readable(local_path(address, field="stac"), field="stac")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@dataclass(frozen=True, slots=True)
class _Member:
    """A raster of the mosaic: the name of its file, and what decides whether it fits the others."""

    name: str
    crs: str | None
    dtype: str
    bands: int
    shape: tuple[int, int]
    transform: Affine
    nodata: float | None
    masked: bool

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> _Member:
        grid = entry["grid"]
        nodata = grid["nodata"]
        return cls(
            name=str(entry["path"]).rpartition("/")[2],
            crs=grid["crs"],
            dtype=grid["dtype"],
            bands=int(grid["band_count"]),
            shape=(int(grid["shape"][0]), int(grid["shape"][1])),
            transform=Affine(*grid["transform"]),
            nodata=None if nodata is None else float(nodata),
            masked=bool(grid["masked"]),
        )


def _mosaic(
    params: CollectRasters, outputs: Outputs, context: DockerTaskContext
) -> tuple[dict[str, Any] | None, str | None]:
    """The mosaic of all rasters, or why there is none."""
    members = [_Member.of(entry) for entry in params.processed]
    reason = _why_not(members)
    if reason is not None:
        return None, reason
    first = members[0]
    lefts, tops = [m.transform.c for m in members], [m.transform.f for m in members]
    rights = [m.transform.c + m.transform.a * m.shape[1] for m in members]
    bottoms = [m.transform.f + m.transform.e * m.shape[0] for m in members]
    across, down = first.transform.a, -first.transform.e
    left, top = min(lefts), max(tops)
    layout = Layout(
        width=max(1, math.ceil((max(rights) - left) / across - _SAME_SIZE)),
        height=max(1, math.ceil((top - min(bottoms)) / down - _SAME_SIZE)),
        count=first.bands,
        dtype=first.dtype,
        crs=parsed_crs(str(first.crs)),
        transform=Affine(across, 0.0, left, 0.0, -down, top),
        nodata=first.nodata,
        masked=first.masked,
        alpha=None,
    )
    pieces = [
        Piece(
            name=member.name,
            width=member.shape[1],
            height=member.shape[0],
            left=_snapped((member.transform.c - left) / across),
            top=_snapped((top - member.transform.f) / down),
            across=member.shape[1],
            down=member.shape[0],
            nodata=member.nodata,
            masked=member.masked,
        )
        for member in members
    ]
    described = _description(str(params.processed[0]["described_by"]), context)
    if not layout.can_be_empty and not described.has_alpha and not cover(pieces, layout.width, layout.height):
        layout = replace(layout, masked=True)
    content = mosaic_document(layout, pieces, description=described)
    path = outputs.directory / f"{params.collection_id}.vrt"
    publish_bytes(content, path, context.task_id)
    return {"path": str(path), "size_bytes": len(content), "sha256": sha256(content).hexdigest()}, None


def _snapped(pixels: float) -> float:
    return float(round(pixels)) if abs(pixels - round(pixels)) < 1e-4 else pixels


def _description(address: str, context: DockerTaskContext) -> Description:
    """Colours and names of the bands of the COG at ``address``."""
    with open_source(source_to_inspect(address, context)) as opened:
        found = Description.of(opened, list(opened.indexes))
    return Description(
        tags={},
        band_tags=[{} for _ in found.band_tags],
        descriptions=found.descriptions,
        units=found.units,
        scales=found.scales,
        offsets=found.offsets,
        colorinterp=found.colorinterp,
        colormaps=found.colormaps,
    )


def _why_not(members: Sequence[_Member]) -> str | None:
    """What keeps rasters from one mosaic; None when they fit."""
    first = members[0]
    for member in members:
        differs = [
            name
            for name, same in (
                ("CRS", member.crs == first.crs),
                ("data type", member.dtype == first.dtype),
                ("number of bands", member.bands == first.bands),
                ("nodata", _same(member.nodata, first.nodata) and member.masked == first.masked),
                ("pixel size", _same_pixels(member.transform, first.transform)),
            )
            if not same
        ]
        if differs:
            return f"{member.name} and {first.name} differ in {', '.join(differs)}"
        if member.crs is None or member.transform.b or member.transform.d or member.transform.e >= 0:
            return f"{member.name} is not north up in a CRS that has a code"
    return None


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _same_pixels(one: Affine, other: Affine) -> bool:
    return math.isclose(one.a, other.a, rel_tol=_SAME_SIZE) and math.isclose(one.e, other.e, rel_tol=_SAME_SIZE)
