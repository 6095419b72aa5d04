"""Makes the tiles of a raster in parallel lanes, each tile one item of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from core.docker_context import ItemLog
from services.raster.budget import Budget
from services.raster.cog_options import CogOptions
from services.raster.description import Description, Layout
from services.raster.encode import encoded, halvings, margin_for, template
from services.raster.gdal import gdal_environment
from services.raster.nodata import differs
from services.raster.pixels import Pixels, PixelSource
from services.raster.tails import TailPixels
from services.raster.tally import Tally
from services.raster.tiff_write import with_codec_tags, write_cog
from services.raster.tile_grid import Box, TileGrid, level_blocks, overview_levels, reduced
from services.raster.tile_store import TileKey, TileRecord, TileStore
from services.raster.watch import Watch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How a raster is cut.

    Args:
        side: of a tile, in pixels of its tier.
        levels: how often each tile is halved; its last level is its tail.
        whole: the tiles are parts of one COG: all of them have all levels, and further tiers give the overviews of the
            whole. Otherwise each tile is a COG of its own.
    """

    side: int
    levels: int
    whole: bool


class Tiler:
    """Makes tiles."""

    def __init__(
        self,
        plan: TilePlan,
        options: CogOptions,
        description: Description | None,
        store: TileStore,
        budget: Budget,
    ) -> None:
        self.plan = plan
        self.options = options
        self.store = store
        self._description = description
        self._budget = budget

    def tiers(self, layout: Layout) -> int:
        """How many tiers the whole has: each halves the one before ``levels`` times."""
        if not self.plan.whole or not self.plan.levels:
            return 1
        total = overview_levels(layout.width, layout.height, self.options.blocksize)
        return max(1, -(-total // self.plan.levels))

    def levels_of(self, layout: Layout, tier: int) -> int:
        """How often a tile of that tier is halved."""
        if not self.plan.whole:
            return self.plan.levels
        total = overview_levels(layout.width, layout.height, self.options.blocksize)
        return min(self.plan.levels, max(0, total - tier * self.plan.levels))

    def layout_of(self, layout: Layout, tier: int) -> Layout:
        """The layout of a tier: the raster halved as often as the tiers below have."""
        times = tier * self.plan.levels
        width, height = reduced(layout.width, times), reduced(layout.height, times)
        return layout if not times else replace(layout, width=width, height=height)

    def run(
        self, source: PixelSource, done: ItemLog, watch: Watch, *, message: str, counted: bool = True
    ) -> dict[TileKey, TileRecord]:
        """Make every tile that is not there yet; all of them, by key. ``counted``: its pixels are part of the progress.

        Raises:
            RasterError: when the source cannot be read or a tile not be written.
            StopRequested: when the task was asked to stop; finished tiles stay.
        """
        self.store.begin()
        records: dict[TileKey, TileRecord] = {}
        for tier in range(self.tiers(source.layout)):
            layout = self.layout_of(source.layout, tier)
            grid = TileGrid(layout.width, layout.height, self.plan.side)
            pixels: PixelSource = source if tier == 0 else TailPixels(self.store, tier - 1, layout, self._tail_side)
            maker = _TileMaker(self, pixels, grid, tier, self.levels_of(source.layout, tier))
            share = 1 if counted and tier == 0 else 0
            records |= self._made(maker, done, lambda count, share=share: watch.advance(count * share, message))  # type: ignore[misc]
        return records

    @property
    def _tail_side(self) -> int:
        return self.plan.side >> self.plan.levels

    def _made(self, maker: _TileMaker, done: ItemLog, advance: Callable[[int], None]) -> dict[TileKey, TileRecord]:
        keys = [TileKey(maker.tier, place) for place in maker.grid]
        marked: Mapping[str, Mapping[str, Any]] = dict(done.items())
        lanes = min(self._budget.lanes, len(keys))
        threads = max(1, self._budget.cores // lanes)
        work = (partial(maker.make, key, marked.get(key.text), threads) for key in keys)
        records: dict[TileKey, TileRecord] = {}
        for key, record in _in_lanes(lanes, self._budget.cache, work):
            records[key] = record
            if marked.get(key.text) != record.as_dict():
                done.mark(key.text, record.as_dict())
            box = maker.grid.box(key.place)
            advance(box.height * box.width)
        return records

    def described(self, layout: Layout, tallies: list[Tally]) -> Any:
        """The directory of a tile's file."""
        statistics = [tally.result() for tally in tallies]
        return template(layout, self.options, self._description, statistics)


@dataclass(frozen=True)
class _TileMaker:
    """Makes the tiles of one tier."""

    tiler: Tiler
    pixels: PixelSource
    grid: TileGrid
    tier: int
    levels: int

    @cached_property
    def _margin(self) -> int:
        return margin_for(self.tiler.options.overview_resampling, self.levels)

    def make(self, key: TileKey, marked: Mapping[str, Any] | None, threads: int) -> tuple[TileKey, TileRecord]:
        """One tile: found from an earlier attempt, or made."""
        store, layout = self.tiler.store, self.pixels.layout
        found = store.found(key, marked)
        if found is not None:
            return key, found
        box = self.grid.box(key.place)
        wide = self.grid.widened(box, self._margin)
        around = self.pixels.read(wide)
        core = Box(box.top - wide.top, box.left - wide.left, box.height, box.width)
        inside = around.part(core)
        valid = validity(inside, layout)
        tallies = [_tallied(inside.values[band], valid[band]) for band in range(layout.count)] if self.tier == 0 else []
        if layout.can_be_empty and not _has_data(inside, layout):
            return key, store.save(key, None, inside, tallies)
        tails: list[Pixels] = []
        count = self._encoded_levels(box)
        levels = _keeping_last(
            halvings(around, core, layout, self.tiler.options.overview_resampling, self.levels), tails
        )
        del around, inside, valid
        with encoded(
            _as_many(levels, count),
            layout,
            self.tiler.options,
            blocks=self._blocks(box, count),
            threads=threads,
            skip_first=self.tier > 0,
        ) as made:
            first = made.levels[0]
            tile = layout.part(Box(box.top, box.left, first.height, first.width))
            main = with_codec_tags(self.tiler.described(tile, tallies), made.directory)
            written = write_cog(store.part(key), main, made.levels, made.fetch, mask=made.mask)
        for _ in levels:
            pass
        return key, store.save(key, written, tails[0], tallies)

    def _blocks(self, box: Box, count: int) -> list[int]:
        """The side of the blocks of each level: of the image that the tile is, or that it is a part of."""
        image: Layout | Box = self.pixels.layout if self.tiler.plan.whole else box
        return level_blocks(image.width, image.height, count, self.tiler.options.blocksize)

    def _encoded_levels(self, box: Box) -> int:
        """How many levels of a tile are encoded: all for a part of a whole, else until it fits into a block."""
        if self.tiler.plan.whole:
            return self.levels + 1
        return 1 + min(self.levels, overview_levels(box.width, box.height, self.tiler.options.blocksize))


def _as_many(levels: Iterator[Pixels], count: int) -> Iterator[Pixels]:
    for _ in range(count):
        yield next(levels)


def _keeping_last(levels: Iterable[Pixels], kept: list[Pixels]) -> Iterator[Pixels]:
    for pixels in levels:
        kept[:] = [pixels]
        yield pixels


def validity(pixels: Pixels, layout: Layout) -> list[npt.NDArray[np.bool_] | None]:
    """Where each band is valid: by the mask, else by nodata, else by alpha, as GDAL has it; None: everywhere."""
    found: list[npt.NDArray[np.bool_] | None] = []
    for band, values in enumerate(pixels.values):
        if band == layout.alpha:
            found.append(None)
        elif pixels.mask is not None:
            found.append(pixels.mask)
        elif layout.nodata is not None:
            found.append(differs(values, layout.nodata))
        elif layout.alpha is not None:
            found.append(pixels.values[layout.alpha] > 0)
        else:
            found.append(None)
    return found


def _tallied(values: Any, valid: Any) -> Tally:
    tally = Tally()
    tally.add(values, valid)
    return tally


def _has_data(pixels: Pixels, layout: Layout) -> bool:
    """Whether any pixel differs from what a tile without a file reads as: nodata, or zero and masked."""
    if pixels.mask is not None and pixels.mask.any():
        return True
    if layout.nodata is not None:
        valid = (differs(values, layout.nodata) for values in pixels.values)
        return any(found is None or bool(found.any()) for found in valid)
    return bool(pixels.values.any())


def _in_lanes(lanes: int, cache: int, work: Iterator[Callable[[], Any]]) -> Iterator[Any]:
    """Results of ``work`` as they come, ``lanes`` at a time, each thread with GDAL options of its own.

    The first failure ends it: what runs is waited for, the rest never starts.
    """

    def within(one: Callable[[], Any]) -> Any:
        with gdal_environment(cache):
            return one()

    pool = ThreadPoolExecutor(lanes, thread_name_prefix="geoworker-tile")
    try:
        running: set[Future[Any]] = set()
        for one in work:
            running.add(pool.submit(within, one))
            if len(running) <= lanes:
                continue
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
