"""Tiled output: a COG for each tile, a VRT over them, and a small COG of the whole for low zooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affine import Affine

from core.docker_context import ItemLog
from services.raster.cog import MadeTiles, Order, Workplace, made_how, made_tiles
from services.raster.cog_check import check_structure
from services.raster.outputs import Outputs, part_of, publish, publish_bytes, sha256_of
from services.raster.statistics import BandStatistics
from services.raster.tails import TailPixels
from services.raster.tally import Tally
from services.raster.tile_grid import TileGrid, reduced, tile_levels
from services.raster.tile_store import TileKey, TileRecord, TileStore
from services.raster.tiling import TilePlan, Tiler
from services.raster.vrt_write import Piece, mosaic_document
from services.raster.whole import assemble

if TYPE_CHECKING:
    from services.raster.tiff_write import Written


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Finished items of one kind among those of a phase: their keys begin with ``prefix``."""

    log: ItemLog
    prefix: str

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.log

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was recorded for an item."""
        return self.log.get(self.prefix + key)

    def items(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """The items of this kind, without the prefix."""
        start = len(self.prefix)
        return [(key[start:], data) for key, data in self.log.items() if key.startswith(self.prefix)]

    def mark(self, key: str, data: Mapping[str, Any] | None = None) -> None:
        """Record an item as finished."""
        self.log.mark(self.prefix + key, data)

    def flush(self) -> None:
        """Save what is buffered."""
        self.log.flush()


def tiles_directory(outputs: Outputs) -> Path:
    """Where the tiles of a raster lie."""
    return outputs.directory / f"{outputs.stem}_tiles"


def create_tiles(order: Order, outputs: Outputs, place: Workplace) -> dict[str, Any]:
    """Make the tiles of a source, the mosaic over them and the overview; their facts, JSON-ready.

    The mosaic's pixels are those that one COG would have. Tiles of which every pixel is without data have no file; they
    are counted, and the mosaic has no data there.

    Raises:
        RasterError: when the source cannot be read or something not be made.
        StopRequested: when the task was asked to stop; finished tiles stay.
    """
    directory = tiles_directory(outputs)
    with made_tiles(order, place, tiles=directory, stem=outputs.stem, whole=False) as made:
        made.tiler.store.settle()
        statistics = [tally.result() for tally in made.tallies]
        overview = outputs.directory / f"{outputs.stem}_overview.tif"
        written = _overview(made, order, overview, place)
        mosaic = outputs.directory / f"{outputs.stem}.vrt"
        content = vrt(made, statistics, directory.name, overview.name)
        publish_bytes(content, mosaic, place.owner)
        empty = sum(record.empty for record in made.records.values())
        grid = TileGrid(made.pixels.layout.width, made.pixels.layout.height, made.tiler.plan.side)
        return {
            "tiles": {
                "directory": str(directory),
                "side": made.tiler.plan.side,
                "rows": grid.rows,
                "columns": grid.columns,
                "count": len(made.records),
                "without_data": empty,
                "size_bytes": sum(record.size for record in made.records.values()),
                "sha256": _digest(made.records),
                **made_how(made.pixels.layout, order.options, order.raster_type, resampled=made.resampled),
                "statistics": [band.as_dict() for band in statistics],
                "histograms": [tally.histogram() for tally in made.tallies],
            },
            "mosaic": {"path": str(mosaic), "size_bytes": len(content), "sha256": sha256_of(mosaic)},
            "overview": {
                "path": str(overview),
                "size_bytes": written.size,
                "sha256": written.sha256,
                "factor": 2**made.tiler.plan.levels,
            },
        }


def _digest(records: Mapping[TileKey, TileRecord]) -> str:
    """One SHA-256 over those of all tiles, in order."""
    from hashlib import sha256

    lines = (f"{key.text} {record.sha256}\n" for key, record in sorted(records.items()))
    return sha256("".join(lines).encode()).hexdigest()


def _overview(made: MadeTiles, order: Order, path: Path, place: Workplace) -> Written:
    """One COG of the tiles' smallest overviews."""
    layout, levels, block = made.pixels.layout, made.tiler.plan.levels, order.options.blocksize
    known, factor = layout.transform, 2**levels
    small = replace(
        layout,
        width=reduced(layout.width, levels),
        height=reduced(layout.height, levels),
        transform=Affine(known.a * factor, known.b * factor, known.c, known.d * factor, known.e * factor, known.f),
    )
    side = place.budget.tile_side(small.pixel_bytes, block, part=True)
    scratch = place.scratch / "overview"
    store = TileStore(scratch, scratch, "part", made.tiler.store.fingerprint, durable=False)
    plan = TilePlan(side=side, levels=tile_levels(side, block), whole=True)
    tiler = Tiler(plan, order.options, made.description, store, place.budget)
    tails = TailPixels(made.tiler.store, 0, small, made.tiler.plan.side >> levels)
    records = tiler.run(
        tails, Prefixed(place.items, "overview/"), place.watch, message="making the overview", counted=False
    )
    tallies = [Tally() for _ in range(small.count)]
    for key in records:
        if key.tier == 0:
            for tally, found in zip(tallies, store.tallies(key), strict=True):
                tally.merge(found)
    with part_of(path, place.owner) as part:
        written = assemble(
            part,
            tiler,
            records,
            layout=small,
            description=made.description,
            statistics=[tally.result() for tally in tallies],
            watch=place.watch,
        )
        check_structure(part, small, block)
        publish(part, path)
    return written


def vrt(made: MadeTiles, statistics: Sequence[BandStatistics], tiles: str, overview: str) -> bytes:
    """The mosaic as a GDAL VRT beside the directory ``tiles`` and the file ``overview``."""
    layout = made.pixels.layout
    grid = TileGrid(layout.width, layout.height, made.tiler.plan.side)
    pieces = []
    for key in sorted(made.records):
        if not made.records[key].empty:
            box = grid.box(key.place)
            pieces.append(
                Piece(
                    name=f"{tiles}/{made.tiler.store.path(key).name}",
                    width=box.width,
                    height=box.height,
                    left=box.left,
                    top=box.top,
                    across=box.width,
                    down=box.height,
                )
            )
    return mosaic_document(layout, pieces, description=made.description, statistics=statistics, overview=overview)
