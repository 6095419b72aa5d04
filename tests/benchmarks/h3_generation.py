"""Cells a second, made and not stored: ours beside h3-py and h3ronpy. ``python -m tests.benchmarks.h3_generation``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import h3.api.numpy_int as h3
import numpy as np
import shapely
from h3ronpy import ContainmentMode
from h3ronpy.vector import geometry_to_cells

from services.h3 import bits
from services.h3.area import resolve_area
from services.h3.containment import Region, select
from services.h3.grid import Containment

ROUNDS = 5
RONPY = {
    Containment.CENTER: ContainmentMode.ContainsCentroid,
    Containment.FULL: ContainmentMode.ContainsBoundary,
    Containment.OVERLAP: ContainmentMode.IntersectsBoundary,
}


def seconds(work: Callable[[], object]) -> float:
    """The median of several rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Print a table."""
    geometry = resolve_area("RWA").geometry
    (polygon,) = shapely.get_parts(geometry)
    shape = h3.geo_to_h3shape(shapely.geometry.mapping(polygon))
    print(f"{'Rwanda, million cells a second':<34}{'cells':>12}{'ours':>8}{'h3-py':>8}{'h3ronpy':>9}{'x h3-py':>9}")
    for mode in Containment:
        for resolution in (8, 9, 10):
            cells = select(Region(geometry), bits.base_cells(), resolution, mode)
            theirs = h3.h3shape_to_cells_experimental(shape, resolution, str(mode))
            assert np.array_equal(cells, np.sort(theirs).astype(np.int64))
            taken = [
                seconds(lambda r=resolution, m=mode: select(Region(geometry), bits.base_cells(), r, m)),
                seconds(lambda r=resolution, m=mode: h3.h3shape_to_cells_experimental(shape, r, str(m))),
                seconds(lambda r=resolution, m=mode: geometry_to_cells(polygon, r, RONPY[m])),
            ]
            rates = [len(cells) / each / 1e6 for each in taken]
            print(
                f"  {mode:<10}resolution {resolution:<11}{len(cells):>12,}{rates[0]:>8.1f}{rates[1]:>8.2f}"
                f"{rates[2]:>9.2f}{taken[1] / taken[0]:>9.1f}"
            )
    parents = select(Region(geometry), bits.base_cells(), 7, Containment.CENTER)
    made = bits.children(parents, 10)
    vectorised = seconds(lambda: bits.children(parents, 10))
    loop = seconds(lambda: np.concatenate([h3.cell_to_children(cell, 10) for cell in parents.tolist()]))
    print(
        f"  children 7 to 10, {len(made):,} cells: {len(made) / vectorised / 1e6:.0f} M/s, h3-py's loop "
        f"{len(made) / loop / 1e6:.0f} M/s"
    )


if __name__ == "__main__":
    main()
