"""Cloud Optimized GeoTIFFs: made tile by tile under temporary names, proved whole, then published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext, ItemLog
from core.errors import TransientError
from services.raster.budget import Budget, budget_of
from services.raster.cog_check import CogCheck, check_structure, compare_samples
from services.raster.cog_options import CogOptions
from services.raster.description import Description, Layout
from services.raster.gdal import gdal_messages
from services.raster.outputs import part_of, publish
from services.raster.parameters import RasterType
from services.raster.pixels import PixelSource, PlainPixels, crs_to_warp_to, pixels_of
from services.raster.profile import Profile, as_json_number, crs_name
from services.raster.source import Source, open_source
from services.raster.tally import Tally
from services.raster.tile_grid import block_for, tail_levels, tile_levels
from services.raster.tile_store import TileKey, TileRecord, TileStore
from services.raster.tiling import TilePlan, Tiler
from services.raster.watch import Watch
from services.raster.whole import assemble

_MADE_BY = 3
"""Raise it when the same parameters would give other tiles than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be made of a source.

    ``tile_side`` is asked for; None: what fits the memory.
    """

    source: Source
    profile: Profile
    options: CogOptions
    raster_type: RasterType
    target_crs: str | None
    tile_side: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where and how it is made: the task's own scratch directory, finished items, progress, memory."""

    owner: str
    scratch: Path
    items: ItemLog
    watch: Watch
    budget: Budget

    @classmethod
    def of(cls, context: DockerTaskContext, *, phase: int, total_pixels: int) -> Workplace:
        """The place of a task; ``phase`` is the one whose items its tiles are."""
        return cls(
            owner=context.task_id,
            scratch=context.work_dir / "tiles",
            items=context.checkpoint.items(phase),
            watch=Watch(context, total_pixels=total_pixels),
            budget=budget_of(context),
        )


def clear_scratch(context: DockerTaskContext) -> None:
    """Remove the tiles that are not kept, once the result is safe."""
    shutil.rmtree(context.work_path / "tiles", ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cog:
    """A finished COG: where it is, what it weighs, and how it was made and checked."""

    path: Path
    size: int
    sha256: str
    layout: Layout
    raster_type: RasterType
    options: CogOptions
    check: CogCheck
    histograms: Sequence[Mapping[str, Any] | None]
    resampled: bool

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that ``create_cog`` returns."""
        return {
            "path": str(self.path),
            "size_bytes": self.size,
            "sha256": self.sha256,
            **made_how(self.layout, self.options, self.raster_type, resampled=self.resampled),
            "overviews": list(self.check.overviews),
            "validation": {
                "valid": True,
                "validator": "rio-cogeo, strict",
                "pixels_equal_source": True if self.check.pixels_compared else None,
                "warnings": list(self.check.warnings),
            },
            "statistics": [band.as_dict() for band in self.check.statistics],
            "histograms": [None if found is None else dict(found) for found in self.histograms],
        }


def made_how(layout: Layout, options: CogOptions, raster_type: RasterType, *, resampled: bool) -> dict[str, Any]:
    """The facts of an output that follow from what was asked for, JSON-ready."""
    return {
        "crs": crs_name(layout.crs),
        "shape": [layout.height, layout.width],
        "transform": list(layout.transform)[:6],
        "nodata": as_json_number(layout.nodata),
        "masked": layout.masked or layout.alpha is not None,
        "band_count": layout.count,
        "dtype": layout.dtype,
        "raster_type": raster_type.value,
        "compression": options.compression.value,
        "level": options.level,
        "lossless": options.lossless,
        "blocksize": block_for(layout.width, layout.height, options.blocksize),
        "overview_resampling": options.overview_resampling.value,
        "verification": options.verification.value,
        "resampled": resampled,
        "resampling": options.resampling.value if resampled else None,
    }


def create_cog(order: Order, destination: Path, place: Workplace) -> Cog:
    """Make the COG of a source at ``destination``.

    The CRS is kept, and with a lossless codec every pixel, unless a target CRS differs or ground control points alone
    place the raster. Call it inside :func:`services.raster.gdal.gdal_environment`. Finished tiles stay in the scratch
    directory until :func:`clear_scratch`.

    Raises:
        RasterError: when it cannot be made or does not pass its check; nothing is left under the final name.
        StopRequested: when the task was asked to stop.
    """
    with made_tiles(order, place, tiles=place.scratch, stem="part", whole=True) as made:
        layout = made.pixels.layout
        statistics = [tally.result() for tally in made.tallies]
        with part_of(destination, place.owner) as part:
            written = assemble(
                part,
                made.tiler,
                made.records,
                layout=layout,
                description=made.description,
                statistics=statistics,
                watch=place.watch,
            )
            overviews, warnings = check_structure(part, layout, order.options.blocksize)
            if order.options.lossless and not made.resampled:
                compare_samples(part, made.pixels)
            publish(part, destination)
    return Cog(
        path=destination,
        size=written.size,
        sha256=written.sha256,
        layout=layout,
        raster_type=order.raster_type,
        options=order.options,
        check=CogCheck(
            statistics=tuple(statistics),
            overviews=overviews,
            pixels_compared=order.options.lossless and not made.resampled,
            warnings=tuple(warnings),
        ),
        histograms=[tally.histogram() for tally in made.tallies],
        resampled=made.resampled,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTiles:
    """All tiles of a raster, and what they were made of."""

    pixels: PixelSource
    description: Description
    tiler: Tiler
    records: Mapping[TileKey, TileRecord]
    tallies: Sequence[Tally]
    resampled: bool


@contextmanager
def made_tiles(order: Order, place: Workplace, *, tiles: Path, stem: str, whole: bool) -> Iterator[MadeTiles]:
    """Make the tiles of a source, those that an earlier attempt has finished excepted.

    Args:
        order: what is to be made.
        place: where.
        tiles: directory of the tiles.
        stem: what their names begin with.
        whole: they are parts of one COG.
    """
    target = crs_to_warp_to(order.profile, order.target_crs)
    with open_source(order.source) as opened, _space():
        pixels = pixels_of(opened, order.profile, order.options, target, place.budget)
        try:
            bands = pixels.bands if isinstance(pixels, PlainPixels) else None
            numbers = bands.numbers if bands is not None else list(range(1, pixels.layout.count + 1))
            description = Description.of(opened, numbers)
            side = _side(order, place.budget, pixels, opened, whole=whole)
            block = order.options.blocksize
            levels = tile_levels(side, block) if whole else tail_levels(side, block)
            store = TileStore(tiles, place.scratch, stem, _fingerprint(order, side, whole=whole), durable=not whole)
            tiler = Tiler(
                TilePlan(side=side, levels=levels, whole=whole), order.options, description, store, place.budget
            )
            message = "warping and encoding" if target is not None else "encoding"
            records = tiler.run(pixels, place.items, place.watch, message=message)
            tallies = [Tally() for _ in range(pixels.layout.count)]
            for key in sorted(records):
                if key.tier == 0:
                    for tally, found in zip(tallies, store.tallies(key), strict=True):
                        tally.merge(found)
            yield MadeTiles(
                pixels=pixels,
                description=description,
                tiler=tiler,
                records=records,
                tallies=tallies,
                resampled=target is not None,
            )
        finally:
            pixels.close()


def _side(order: Order, budget: Budget, pixels: PixelSource, opened: Any, *, whole: bool) -> int:
    """The side of the tiles; for a source whose blocks are whole rows, as many rows are kept in memory if they fit."""
    layout, block = pixels.layout, order.options.blocksize
    asked = None if whole else order.tile_side
    side = asked or budget.tile_side(layout.pixel_bytes, block, part=whole)
    rows, columns = opened.block_shapes[0]
    strips = columns >= opened.width and opened.width > side
    if isinstance(pixels, PlainPixels) and strips:
        candidates = [side] if asked else [side >> n for n in range(8) if side >> n >= max(2 * block, rows)]
        for candidate in candidates:
            if budget.holds_rows(candidate, layout.width, layout.pixel_bytes):
                pixels.keep_rows(candidate)
                return candidate
    return side


def _fingerprint(order: Order, side: int, *, whole: bool) -> str:
    facts = {
        "made by": _MADE_BY,
        "source": order.source.version,
        "options": asdict(replace(order.options)),
        "crs": order.target_crs,
        "input": crs_name(order.profile.crs),
        "side": side,
        "whole": whole,
    }
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _space() -> Iterator[None]:
    """Tell a full disk, which passes, from what does not."""
    with gdal_messages() as messages:
        try:
            yield
        except OSError as error:
            raise TransientError(f"the tiles cannot be written: {error}") from error
    del messages
