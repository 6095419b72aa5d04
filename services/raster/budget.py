"""How much memory a raster may take, and what follows for caches, lanes and tiles."""

from __future__ import annotations

import os
from dataclasses import dataclass

from core.docker_context import DockerTaskContext
from services.raster.gdal import MIB

MAX_TILE = 4096
MAX_PART = 2048
MOST_LANES = 8
_INTERPRETER = 160 * MIB
_LEAST = 64 * MIB
_USEFUL = 768 * MIB
_COPIES = 4.5
_DEFAULT = 1024 * MIB
_CACHE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Budget:
    """``memory`` bytes for the whole process, and the ``cores`` that it may use.

    A tile is in memory about four and a half times while it is made: its pixels, GDAL's copy, overviews, compressed
    blocks. More than 768 MiB beside the interpreter makes nothing faster and is left alone.
    """

    memory: int
    cores: int

    @property
    def working(self) -> int:
        """Bytes for pixels."""
        return min(_USEFUL, max(_LEAST, self.memory - _INTERPRETER))

    @property
    def cache(self) -> int:
        """Bytes for GDAL's block cache; 64 MiB lose nothing against more."""
        return min(_CACHE, self.working // 8)

    @property
    def warp(self) -> int:
        """MiB that one warp may take."""
        return max(8, min(64, self.working // (8 * MIB)))

    @property
    def lanes(self) -> int:
        """Tiles that are made at the same time: one a core, fewer where memory is short."""
        affordable = (self.working - self.cache) // round(_COPIES * 6 * MIB)
        return max(1, min(self.cores, MOST_LANES, affordable))

    @property
    def tile_bytes(self) -> int:
        """How large a tile's pixels may be."""
        return round((self.working - self.cache) / self.lanes / _COPIES)

    def tile_side(self, pixel_bytes: int, block: int, *, part: bool = False) -> int:
        """The largest side of a tile in pixels: ``block`` times a power of two, from two blocks up to 4096.

        A ``part`` of one COG goes up to 2048: nobody sees it, and lanes end closer together.
        """
        side, most = 2 * block, min(MAX_PART, MAX_TILE) if part else MAX_TILE
        while side * 2 <= most and (side * 2) ** 2 * pixel_bytes <= self.tile_bytes:
            side *= 2
        return side

    def holds_rows(self, rows: int, width: int, pixel_bytes: int) -> bool:
        """Whether that many whole rows can be kept in memory, twice over."""
        return 2 * rows * width * pixel_bytes <= self.working // 3


def budget_of(context: DockerTaskContext) -> Budget:
    """The budget that this process offers (``services["memory_budget_bytes"]``), 1 GiB where it says nothing."""
    offered = context.services.get("memory_budget_bytes")
    return Budget(int(offered) if offered else _DEFAULT, len(os.sched_getaffinity(0)))
