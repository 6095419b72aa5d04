"""The grid of tiles that a raster is made in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A tile's row and column."""

    row: int
    column: int


@dataclass(frozen=True, slots=True)
class Box:
    """A window of pixels: first row, first column, height, width."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Square tiles of ``side`` pixels over ``width`` x ``height``; those at the right and lower edge may be smaller."""

    width: int
    height: int
    side: int

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return -(-self.height // self.side)

    @property
    def columns(self) -> int:
        """Tiles from left to right."""
        return -(-self.width // self.side)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __iter__(self) -> Iterator[Place]:
        for row in range(self.rows):
            for column in range(self.columns):
                yield Place(row, column)

    def box(self, place: Place) -> Box:
        """The pixels of a tile."""
        top, left = place.row * self.side, place.column * self.side
        return Box(top, left, min(self.side, self.height - top), min(self.side, self.width - left))

    def widened(self, box: Box, margin: int) -> Box:
        """``box`` with ``margin`` pixels more on every side, as far as the raster goes."""
        top, left = max(0, box.top - margin), max(0, box.left - margin)
        bottom = min(self.height, box.top + box.height + margin)
        right = min(self.width, box.left + box.width + margin)
        return Box(top, left, bottom - top, right - left)


def reduced(pixels: int, levels: int) -> int:
    """The length of ``pixels`` after halving, rounded up, so many times."""
    return -(-pixels // (1 << levels))


_MAY_BE_ONE_BLOCK = 512


def block_for(width: int, height: int, block: int) -> int:
    """The side of the blocks of one image: ``block``, or half of it for an image as wide as one block.

    Validators (rio-cogeo's, GDAL's) take an image above 512 pixels with blocks as wide as itself for one in strips.
    """
    return block // 2 if width == block and max(width, height) > _MAY_BE_ONE_BLOCK else block


def level_blocks(width: int, height: int, levels: int, block: int) -> list[int]:
    """The side of the blocks of an image and of each of its overviews, ``levels`` in all."""
    return [block_for(reduced(width, level), reduced(height, level), block) for level in range(levels)]


def overview_levels(width: int, height: int, block: int) -> int:
    """How often a raster is halved until it fits into one block and 512 pixels, above which validators miss overviews.

    A raster of one column has none, as their factors are told by widths.
    """
    levels, most = 0, min(block, _MAY_BE_ONE_BLOCK)
    while width > 1 and max(reduced(width, levels), reduced(height, levels)) > most:
        levels += 1
    return levels


def tile_levels(side: int, block: int) -> int:
    """How often a tile can be halved with its blocks still lying on the blocks of the whole."""
    levels = 0
    while side % 2 == 0 and (side // 2) % block == 0:
        side //= 2
        levels += 1
    return levels


def tail_levels(side: int, block: int) -> int:
    """How often a tile is halved, as far as it goes evenly, until it is at most an eighth and smaller than a block: the
    overviews in its own file end before.
    """
    levels = 0
    while (side >= block or levels < 3) and side % 2 == 0:
        side //= 2
        levels += 1
    return levels
