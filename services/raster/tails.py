"""The tails of a tier's tiles, put together: the raster at the scale of their smallest overviews."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.raster.description import Layout
from services.raster.pixels import Pixels
from services.raster.tile_grid import Box, Place
from services.raster.tile_store import TileKey

if TYPE_CHECKING:
    from services.raster.tile_store import TileStore


class TailPixels:
    """Reads windows from tails of ``side`` pixels. ``layout`` is that of the raster at their scale."""

    def __init__(self, store: TileStore, tier: int, layout: Layout, side: int) -> None:
        self.layout = layout
        self._store = store
        self._tier = tier
        self._side = side

    def read(self, box: Box) -> Pixels:
        """A window; where tiles are without data it has nodata, or nothing by its mask."""
        import numpy as np

        layout, side = self.layout, self._side
        fill: Any = 0 if layout.nodata is None else layout.nodata
        values = np.zeros((layout.count, box.height, box.width), layout.dtype)
        mask = np.zeros((box.height, box.width), bool) if layout.masked else None
        for row in range(box.top // side, (box.top + box.height - 1) // side + 1):
            for column in range(box.left // side, (box.left + box.width - 1) // side + 1):
                top, left = max(box.top, row * side), max(box.left, column * side)
                bottom = min(box.top + box.height, (row + 1) * side)
                right = min(box.left + box.width, (column + 1) * side)
                here = slice(top - box.top, bottom - box.top), slice(left - box.left, right - box.left)
                there = slice(top - row * side, bottom - row * side), slice(left - column * side, right - column * side)
                tail = self._store.tail(TileKey(self._tier, Place(row, column)))
                if tail is None:
                    values[:, here[0], here[1]] = fill
                    if layout.alpha is not None:
                        values[layout.alpha, here[0], here[1]] = 0
                    continue
                values[:, here[0], here[1]] = tail[0][:, there[0], there[1]]
                if mask is not None:
                    mask[here] = tail[1][there]
        return Pixels(values, mask)

    def close(self) -> None:
        """Nothing is held open."""
