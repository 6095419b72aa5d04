"""H3 indices as integers: resolution, parents and children by bit arithmetic on whole arrays.

Arrays are int64 (the top bit of a valid cell is 0). At one resolution the order of the integers is the order of the
hierarchy: the descendants of a cell at a given resolution are one contiguous range, and sorted parents give sorted
children. The layout is the H3 library's (https://h3geo.org/docs/core-library/h3Indexing): 4 bits of resolution at bit
52, 7 bits of base cell at bit 45, then fifteen 3-bit digits, unused ones 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]

MAX_RESOLUTION = 15
BASE_CELLS = 122
PENTAGON_BASE_CELLS = (4, 14, 24, 38, 49, 58, 63, 72, 83, 97, 107, 117)

_MODE_CELL = 1 << 59
_RESOLUTION_SHIFT = 52
_BASE_SHIFT = 45
_RESOLUTION_MASK = 0xF << _RESOLUTION_SHIFT
_DIGIT_BITS = 3
_IS_PENTAGON_BASE = np.isin(np.arange(128), PENTAGON_BASE_CELLS)


def unused_digits(resolution: int) -> int:
    """The bits of the digits finer than ``resolution``, all set."""
    return int((1 << (_DIGIT_BITS * (MAX_RESOLUTION - resolution))) - 1)


def base_cells() -> Cells:
    """The 122 cells of resolution 0, sorted."""
    numbers = np.arange(BASE_CELLS, dtype=np.int64)
    return numbers << _BASE_SHIFT | _MODE_CELL | unused_digits(0)


def resolution_of(cells: Cells) -> Cells:
    """The resolution of each cell."""
    return (cells >> _RESOLUTION_SHIFT) & 0xF


def is_pentagon(cells: Cells) -> NDArray[np.bool_]:
    """Which cells are pentagons: a pentagon's base cell and only zero digits."""
    base = (cells >> _BASE_SHIFT) & 0x7F
    digits = cells & unused_digits(0)
    unused = np.left_shift(np.int64(1), _DIGIT_BITS * (MAX_RESOLUTION - resolution_of(cells))) - 1
    return np.asarray(_IS_PENTAGON_BASE[base] & (digits == unused))


def parents(cells: Cells, resolution: int) -> Cells:
    """The ancestor of each cell at ``resolution``, which must not be finer than the cells."""
    return (cells & ~np.int64(_RESOLUTION_MASK)) | np.int64(resolution << _RESOLUTION_SHIFT | unused_digits(resolution))


def children_count(steps: int, *, pentagon: bool = False) -> int:
    """How many descendants a cell has ``steps`` resolutions finer."""
    hexagons: int = 7**steps
    return 1 + 5 * (hexagons - 1) // 6 if pentagon else hexagons


def descendant_counts(cells: Cells, resolution: int) -> Cells:
    """How many descendants each cell has at ``resolution``."""
    steps = resolution - resolution_of(cells)
    hexagons = np.power(np.int64(7), steps)
    return np.where(is_pentagon(cells), 1 + 5 * (hexagons - 1) // 6, hexagons)


def first_descendant(cell: int, resolution: int) -> int:
    """The smallest descendant of a cell at ``resolution``: with :func:`last_descendant` the bounds of a range query."""
    own = (cell >> _RESOLUTION_SHIFT) & 0xF
    return _at_resolution(cell, resolution) & ~(unused_digits(own) & ~unused_digits(resolution))


def last_descendant(cell: int, resolution: int) -> int:
    """The largest index a descendant of a cell can have at ``resolution``."""
    own = (cell >> _RESOLUTION_SHIFT) & 0xF
    fresh = unused_digits(own) & ~unused_digits(resolution)
    sixes = sum(6 << (_DIGIT_BITS * (MAX_RESOLUTION - step)) for step in range(own + 1, resolution + 1))
    return (_at_resolution(cell, resolution) & ~fresh) | sixes


def children(cells: Cells, resolution: int) -> Cells:
    """All descendants at ``resolution`` of cells that share one coarser (or the same) resolution.

    Sorted when ``cells`` is sorted and holds no cell twice.
    """
    if not len(cells):
        return cells.astype(np.int64)
    own = int(resolution_of(cells[:1])[0])
    steps = resolution - own
    if steps == 0:
        return cells.astype(np.int64, copy=False)
    shift = _DIGIT_BITS * (MAX_RESOLUTION - resolution)
    fresh = unused_digits(own) & ~unused_digits(resolution)
    stems = (cells & ~np.int64(_RESOLUTION_MASK | fresh)) | (resolution << _RESOLUTION_SHIFT)
    pentagons = np.flatnonzero(is_pentagon(cells))
    if not len(pentagons):
        return _expand(stems, _digits(steps) << shift)
    pieces: list[Cells] = []
    start = 0
    for at in pentagons.tolist():
        pieces.append(_expand(stems[start:at], _digits(steps) << shift))
        pieces.append(stems[at] | (_pentagon_digits(steps) << shift))
        start = at + 1
    pieces.append(_expand(stems[start:], _digits(steps) << shift))
    return np.concatenate(pieces)


def mixed_descendants(cells: Cells, resolution: int) -> Cells:
    """All descendants at ``resolution`` of cells of several resolutions that do not contain one another, sorted."""
    cells = cells[np.argsort(_first_descendants(cells, resolution))]
    own, counts = resolution_of(cells), descendant_counts(cells, resolution)
    starts = np.cumsum(counts) - counts
    found = np.empty(int(counts.sum()), dtype=np.int64)
    for count in np.unique(counts):
        for step in np.unique(own[counts == count]):
            group = np.flatnonzero((counts == count) & (own == step))
            found[starts[group][:, None] + np.arange(count)] = children(cells[group], resolution).reshape(-1, count)
    return found


def descendants_in_chunks(cells: Cells, resolution: int, chunk: int) -> Iterator[Cells]:
    """What :func:`mixed_descendants` returns, in order, in pieces of at most ``chunk`` cells where one cell's fit."""
    cells = cells[np.argsort(_first_descendants(cells, resolution))]
    reached = np.cumsum(descendant_counts(cells, resolution))
    start = 0
    while start < len(cells):
        before = int(reached[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(reached, before + chunk, side="right")))
        yield mixed_descendants(cells[start:end], resolution)
        start = end


def _first_descendants(cells: Cells, resolution: int) -> Cells:
    own = resolution_of(cells)
    unused = np.left_shift(np.int64(1), _DIGIT_BITS * (MAX_RESOLUTION - own)) - 1
    stems = (cells & ~np.int64(_RESOLUTION_MASK)) | (resolution << _RESOLUTION_SHIFT)
    return stems & ~(unused & ~np.int64(unused_digits(resolution)))


def _at_resolution(cell: int, resolution: int) -> int:
    return (cell & ~_RESOLUTION_MASK) | (resolution << _RESOLUTION_SHIFT)


def _expand(stems: Cells, digits: Cells) -> Cells:
    return (stems[:, None] | digits[None, :]).reshape(-1)


@cache
def _digits(steps: int) -> Cells:
    """All strings of ``steps`` digits 0..6, as bits, ascending."""
    found = np.zeros(1, dtype=np.int64)
    for _ in range(steps):
        found = ((found[:, None] << _DIGIT_BITS) | np.arange(7, dtype=np.int64)[None, :]).reshape(-1)
    found.setflags(write=False)
    return found


@cache
def _pentagon_digits(steps: int) -> Cells:
    """The same below a pentagon, where the first digit that is not 0 cannot be 1 (the deleted direction)."""
    found = _digits(steps)
    leading = np.zeros(len(found), dtype=np.int64)
    for step in range(steps):
        digit = (found >> (_DIGIT_BITS * (steps - 1 - step))) & 7
        leading = np.where(leading == 0, digit, leading)
    kept: Cells = found[leading != 1]
    return kept
