"""One COG out of the tiles of a raster: their compressed blocks are moved, no pixel is touched again."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from services.raster.description import Description, Layout
from services.raster.encode import mask_directory, template
from services.raster.statistics import BandStatistics
from services.raster.tiff_write import (
    HEIGHT,
    WIDTH,
    Blocks,
    Directory,
    Level,
    Written,
    read_directories,
    with_codec_tags,
    write_cog,
)
from services.raster.tile_grid import level_blocks, overview_levels, reduced
from services.raster.tile_store import TileKey, TileRecord, TileStore
from services.raster.tiling import Tiler
from services.raster.watch import Watch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MOST_OPEN = 256


def assemble(
    path: Path,
    tiler: Tiler,
    records: Mapping[TileKey, TileRecord],
    *,
    layout: Layout,
    description: Description,
    statistics: Sequence[BandStatistics],
    watch: Watch,
) -> Written:
    """Write the COG of all tiles to ``path``. Tiles without data become blocks without content.

    Raises:
        StopRequested: when the task was asked to stop.
    """
    options = tiler.options
    total = overview_levels(layout.width, layout.height, options.blocksize)
    blocks = level_blocks(layout.width, layout.height, total + 1, options.blocksize)
    levels = [
        _Assembled.of(reduced(layout.width, n), reduced(layout.height, n), block, masked=layout.masked)
        for n, block in enumerate(blocks)
    ]
    main = template(layout, options, description, statistics)
    files = [key for key, record in sorted(records.items()) if not record.empty]
    for number, key in enumerate(files):
        directories = _directories_of(tiler.store.path(key))
        images = 2 if layout.masked else 1
        for local in range(0, len(directories), images):
            within = local // images + (1 if key.tier else 0)
            level = levels[key.tier * tiler.plan.levels + within]
            step = (tiler.plan.side >> within) // level.block
            level.put((key.place.row * step, key.place.column * step), number, directories[local : local + images])
        main = with_codec_tags(main, directories[0])
    with _Files(tiler.store, files) as opened:

        def fetch(file: int, offset: int, size: int) -> bytes:
            watch.check()
            return opened.read(file, offset, size)

        return write_cog(
            path,
            main,
            [level.as_level() for level in levels],
            fetch,
            mask=mask_directory(options) if layout.masked else None,
        )


def _directories_of(path: Path) -> list[Directory]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        try:
            return read_directories(view)
        finally:
            view.release()


@dataclass(frozen=True)
class _Assembled:
    """A level of the whole while its blocks are found: for image and mask, arrays of (file, offset, size)."""

    width: int
    height: int
    block: int
    images: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]

    @classmethod
    def of(cls, width: int, height: int, block: int, *, masked: bool) -> _Assembled:
        import numpy as np

        shape = -(-height // block), -(-width // block)
        images = [
            (np.zeros(shape, np.int32), np.zeros(shape, np.uint64), np.zeros(shape, np.uint64))
            for _ in range(2 if masked else 1)
        ]
        return cls(width, height, block, images)

    def put(self, at: tuple[int, int], file: int, directories: Sequence[Directory]) -> None:
        """Enter the blocks of a tile whose first block lies at row and column ``at``."""
        row, column = at
        for (files, offsets, sizes), directory in zip(self.images, directories, strict=True):
            blocks = Blocks.of(directory, file)
            (width,), (height,) = directory[WIDTH].numbers(), directory[HEIGHT].numbers()
            shape = -(-height // self.block), -(-width // self.block)
            here = slice(row, row + shape[0]), slice(column, column + shape[1])
            files[here] = file
            offsets[here] = blocks.offsets.reshape(shape)
            sizes[here] = blocks.sizes.reshape(shape)

    def as_level(self) -> Level:
        image, *mask = [Blocks(files.ravel(), offsets.ravel(), sizes.ravel()) for files, offsets, sizes in self.images]
        return Level(self.width, self.height, self.block, image, mask[0] if mask else None)


@dataclass
class _Files:
    """Tiles that are read from, a bounded number of them open."""

    store: TileStore
    keys: Sequence[TileKey]
    _open: OrderedDict[int, int] = field(default_factory=OrderedDict)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, file: int, offset: int, size: int) -> bytes:
        if file in self._open:
            self._open.move_to_end(file)
        else:
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[file] = os.open(self.store.path(self.keys[file]), os.O_RDONLY)
        content = os.pread(self._open[file], size, offset)
        if len(content) != size:
            raise OSError(f"{self.store.path(self.keys[file])} is cut short")
        return content
