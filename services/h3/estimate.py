"""How many cells a grid will have, found in a moment whatever the resolution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.h3 import bits
from services.h3.bits import Cells
from services.h3.containment import Region, descend
from services.h3.grid import Containment, Method

_MOST_UNDECIDED = 20_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cells of one resolution: ``low`` and ``high`` are certain bounds, ``cells`` the best guess between them."""

    resolution: int
    cells: int
    low: int
    high: int

    @property
    def exact(self) -> bool:
        """Whether the number is counted, not guessed."""
        return self.low == self.high

    def as_dict(self) -> Mapping[str, Any]:
        """JSON-ready form."""
        return {
            "resolution": self.resolution,
            "cells": self.cells,
            "low": self.low,
            "high": self.high,
            "exact": self.exact,
        }


def estimate_cells(
    region: Region, base: Cells | None, resolutions: Iterable[int], *, method: Method, containment: Containment
) -> list[Estimate]:
    """Estimates for each resolution.

    ``base`` are the base cells of a cascade, None for all the Earth. What lies inside the area is counted; cells along
    the boundary are compared with it as long as they are few, then taken for half inside.
    """
    start = bits.base_cells() if base is None else base
    if method is Method.CASCADE:
        counts = {step: int(bits.descendant_counts(start, step).sum()) for step in resolutions}
        return [Estimate(step, cells, cells, cells) for step, cells in counts.items()]
    return _by_descent(region, start, sorted(resolutions), containment)


def _by_descent(region: Region, start: Cells, resolutions: list[int], containment: Containment) -> list[Estimate]:
    found: list[Estimate] = []
    inside: list[Cells] = []
    undecided, level = start, int(bits.resolution_of(start[:1])[0]) if len(start) else 0
    for resolution in range(level, max(resolutions) + 1):
        if len(undecided) <= _MOST_UNDECIDED and len(undecided):
            # Down to this resolution the boundary is narrow enough to be looked at.
            whole, undecided = descend(region, undecided, resolution)
            inside, level = [*inside, *whole], resolution
        if resolution not in resolutions:
            continue
        certain = sum(int(bits.descendant_counts(part, resolution).sum()) for part in inside)
        if level == resolution:
            members = int(region.contains(undecided, resolution, containment).sum()) if len(undecided) else 0
            found.append(Estimate(resolution, certain + members, certain + members, certain + members))
        else:
            open_ = int(bits.descendant_counts(undecided, resolution).sum())
            found.append(Estimate(resolution, certain + open_ // 2, certain, certain + open_))
    return found


def average_edge_metres(resolution: int) -> float:
    """The average length of a cell's side, as the H3 library states it."""
    import h3

    return float(h3.average_hexagon_edge_length(resolution, unit="m"))


def total(estimates: Iterable[Estimate]) -> int:
    """The best guess for all resolutions together."""
    return int(np.sum([estimate.cells for estimate in estimates], dtype=np.int64))
