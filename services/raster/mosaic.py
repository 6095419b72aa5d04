"""Tiled output: a COG for each tile, a VRT over them, and a small COG of the whole for low zooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from affine import Affine

from core.docker_context import ItemLog
from services.raster.cog import MadeTiles, Order, Workplace, made_how, made_tiles
from services.raster.cog_check import check_structure
from services.raster.description import Description, Layout
from services.raster.gdal import judged_here
from services.raster.outputs import Outputs, part_of, publish, publish_bytes, sha256_of
from services.raster.statistics import BandStatistics
from services.raster.tails import TailPixels
from services.raster.tally import Tally
from services.raster.tile_grid import Box, TileGrid, overview_levels, reduced, tile_levels
from services.raster.tile_store import TileKey, TileRecord, TileStore
from services.raster.tiling import TilePlan, Tiler
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
    side = place.budget.tile_side(small.pixel_bytes, block)
    scratch = place.scratch / "overview"
    store = TileStore(scratch, scratch, "part", made.tiler.store.fingerprint)
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
        check_structure(part, overview_levels(small.width, small.height, block))
        publish(part, path)
    return written


def vrt(made: MadeTiles, statistics: Sequence[BandStatistics], tiles: str, overview: str) -> bytes:
    """The mosaic as a GDAL VRT beside the directory ``tiles`` and the file ``overview``.

    GDAL writes the description, from a GeoTIFF without pixels; its sources are replaced by the tiles.
    """
    layout, plan = made.pixels.layout, made.tiler.plan
    root = _described(layout, made.tiler, made.description, statistics)
    grid = TileGrid(layout.width, layout.height, plan.side)
    present = [key for key in sorted(made.records) if not made.records[key].empty]
    files = [(f"{tiles}/{made.tiler.store.path(key).name}", grid.box(key.place)) for key in present]
    bands = root.findall("VRTRasterBand")
    for number, band in enumerate(bands, start=1):
        _point_at(band, files, str(number), overview, plan.side)
    if layout.masked:
        masks = ElementTree.SubElement(root, "MaskBand")
        mask = ElementTree.SubElement(masks, "VRTRasterBand", {"dataType": "Byte"})
        _point_at(mask, files, "mask,1", overview, plan.side)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8")
    return content


def _described(
    layout: Layout, tiler: Tiler, description: Description, statistics: Sequence[BandStatistics]
) -> ElementTree.Element:
    import rasterio
    from rasterio.io import MemoryFile
    from rasterio.shutil import copy

    from services.raster.encode import open_template

    with judged_here(), MemoryFile(ext=".tif") as file, MemoryFile(ext=".vrt") as written:
        with open_template(file.name, layout, tiler.options) as empty:
            description.write(empty, statistics)
        with rasterio.open(file.name, driver="GTiff") as empty:
            copy(empty, written.name, driver="VRT")
        content = written.read()
    root = ElementTree.fromstring(content)  # noqa: S314 - GDAL has just written it
    for old in root.findall("OverviewList"):
        root.remove(old)
    for domain in root.findall("Metadata[@domain='IMAGE_STRUCTURE']"):
        root.remove(domain)
    return root


_SOURCES = frozenset({"SimpleSource", "ComplexSource", "Overview"})


def _point_at(
    band: ElementTree.Element, files: Sequence[tuple[str, Box]], number: str, overview: str, side: int
) -> None:
    for old in [child for child in band if child.tag in _SOURCES]:
        band.remove(old)
    low = ElementTree.SubElement(band, "Overview")
    ElementTree.SubElement(low, "SourceFilename", {"relativeToVRT": "1"}).text = overview
    ElementTree.SubElement(low, "SourceBand").text = number
    for name, box in files:
        source = ElementTree.SubElement(band, "SimpleSource")
        ElementTree.SubElement(source, "SourceFilename", {"relativeToVRT": "1"}).text = name
        ElementTree.SubElement(source, "SourceBand").text = number
        size = {"xSize": str(box.width), "ySize": str(box.height)}
        ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
        ElementTree.SubElement(source, "DstRect", {"xOff": str(box.left), "yOff": str(box.top), **size})
    band.set("blockXSize", str(min(512, side)))
    band.set("blockYSize", str(min(512, side)))
