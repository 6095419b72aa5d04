"""Describes tiled output: an item for each tile, the collection over them, the thumbnail of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from services.raster.footprint import footprint
from services.raster.mosaic import tiles_directory
from services.raster.outputs import Outputs
from services.raster.parameters import ItemParameters, RasterType
from services.raster.profile import read_profile
from services.raster.source import Source, open_source
from services.raster.stac import COG_MEDIA_TYPE, bands_of, build_item, moment_of, thumbnail_asset
from services.raster.stac_collection import VRT_MEDIA_TYPE, build_collection, file_asset
from services.raster.steps import write_json, write_thumbnail
from services.raster.tile_grid import Place
from services.raster.tile_store import TileKey, TileRecord, TileStore
from services.raster.watch import StopRequested


def describe_tiles(
    made: Mapping[str, Any],
    source: Source,
    params: ItemParameters,
    outputs: Outputs,
    context: DockerTaskContext,
    *,
    finished: Iterable[tuple[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    """Write items, collection and thumbnail of the tiles that ``made`` tells of; ``finished`` are their records.

    Raises:
        RasterError: when a tile cannot be read or placed.
        StopRequested: when the task was asked to stop.
    """
    store = TileStore(tiles_directory(outputs), context.work_path, outputs.stem, "", durable=True)
    collection_id = params.item_id or source.stem
    created = datetime.now(UTC).replace(microsecond=0)
    raster_type = RasterType(made["tiles"]["raster_type"])
    with open_source(source) as opened:
        moment = moment_of(opened, source.path, params.acquired)
    items: list[dict[str, Any]] = []
    hrefs: list[str] = []
    for key, record in sorted(_tiles(finished)):
        if context.should_stop():
            raise StopRequested
        if record.empty:
            continue
        path = store.path(key)
        with open_source(Source.of_file(path)) as tile:
            profile = read_profile(tile, input_crs=None, file_bytes=record.size)
            item = build_item(
                tile,
                name=path.name,
                size=record.size,
                sha256=record.sha256,
                profile=profile,
                footprint=footprint(profile),
                raster_type=raster_type,
                item_id=f"{collection_id}_r{key.place.row:04d}_c{key.place.column:04d}",
                moment=moment,
                thumbnail=None,
                created=created,
                collection=(collection_id, f"../{outputs.item.name}"),
            )
        write_json(item, path.with_suffix(".json"), context)
        items.append(item)
        hrefs.append(f"{path.parent.name}/{path.stem}.json")
    overview = Path(made["overview"]["path"])
    with open_source(Source.of_file(overview)) as small:
        thumbnail = write_thumbnail(small, raster_type, outputs, context)
        bands = bands_of(small, read_profile(small, input_crs=None, file_bytes=made["overview"]["size_bytes"]))
    for band, statistics, histogram in zip(
        bands, made["tiles"]["statistics"], made["tiles"]["histograms"], strict=True
    ):
        band.pop("raster:spatial_resolution", None)
        band["statistics"] = statistics
        if histogram is not None:
            band["raster:histogram"] = histogram
    collection = build_collection(
        collection_id=collection_id,
        description=f"{made['tiles']['rows']} x {made['tiles']['columns']} tiles of {made['tiles']['side']} pixels: "
        f"{len(items)} with data, {made['tiles']['without_data']} without.",
        items=items,
        hrefs=hrefs,
        assets={
            "mosaic": {
                **file_asset(
                    Path(made["mosaic"]["path"]).name, VRT_MEDIA_TYPE, "Mosaic (GDAL VRT)", ["data"], made["mosaic"]
                ),
                "bands": bands,
            },
            "overview": file_asset(
                overview.name,
                COG_MEDIA_TYPE,
                f"Overview, 1/{made['overview']['factor']}",
                ["overview"],
                made["overview"],
            ),
            "thumbnail": thumbnail_asset(outputs.thumbnail.name),
        },
        summaries={"geoworker:raster_type": [raster_type.value]},
        parent=None if params.collection is None else f"./{params.collection}.json",
    )
    facts = write_json(collection, outputs.item, context)
    return {
        "stac": {
            "id": collection_id,
            "bbox": collection["extent"]["spatial"]["bbox"][0],
            "items": len(items),
            **facts,
        },
        "thumbnail": thumbnail,
    }


def _tiles(finished: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterable[tuple[TileKey, TileRecord]]:
    """The tiles of full resolution among finished items."""
    for text, data in finished:
        parts = text.split("/")
        if len(parts) == 3 and parts[0] == "0":
            yield TileKey(0, Place(int(parts[1]), int(parts[2]))), TileRecord(int(data["size"]), str(data["sha256"]))


def tile_files(outputs: Outputs) -> list[Path]:
    """The files of the tiles and their items, the items last."""
    files = sorted(tiles_directory(outputs).iterdir())
    return [*(file for file in files if file.suffix == ".tif"), *(file for file in files if file.suffix == ".json")]
