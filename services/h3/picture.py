"""A map to look at: the cells of a grid over the outline of its area."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from services.h3 import bits, countries, geodesy
from services.h3.bits import Cells
from services.h3.containment import Region
from services.h3.grid import GridSpec

if TYPE_CHECKING:
    from PIL import ImageDraw

CellSource = Callable[[int], Iterable[Cells]]

_LONG_SIDE, _MARGIN, _CAPTION = 1400, 40, 64
_MOST_CELLS = 6_000
_FINE_LINE = 10_000  # corners
_SEA, _LAND, _AREA = (226, 236, 244), (246, 244, 238), (255, 255, 255)
_BORDER, _OUTLINE, _TEXT = (176, 176, 170), (32, 32, 36), (32, 32, 36)
_FILL, _EDGE, _BASE_EDGE = (96, 165, 220), (28, 98, 160), (214, 92, 40)


@dataclass(frozen=True, slots=True)
class _View:
    """An equirectangular map, true to scale at the middle latitude. ``west`` may lie past 180 degrees to the east."""

    west: float
    south: float
    east: float
    north: float
    scale: float  # pixels a degree of latitude

    @classmethod
    def of(cls, bbox: tuple[float, float, float, float]) -> _View:
        west, south, east, north = bbox
        east = east if east >= west else east + 360.0
        pad = max(east - west, north - south) * 0.04 + 1e-6
        west, east = (west - pad, east + pad) if east - west + 2 * pad < 360.0 else (-180.0, 180.0)
        south, north = max(south - pad, -90.0), min(north + pad, 90.0)
        squeeze = _squeeze(south, north)
        scale = (_LONG_SIDE - 2 * _MARGIN) / max((east - west) * squeeze, north - south)
        return cls(west, south, east, north, scale)

    @property
    def size(self) -> tuple[int, int]:
        width = (self.east - self.west) * _squeeze(self.south, self.north) * self.scale
        height = (self.north - self.south) * self.scale
        return max(500, round(width) + 2 * _MARGIN), round(height) + 2 * _MARGIN + _CAPTION

    def pixels(self, points: NDArray[np.float64]) -> list[tuple[float, float]]:
        x = (points[:, 0] - self.west) * _squeeze(self.south, self.north) * self.scale + _MARGIN
        y = (self.north - points[:, 1]) * self.scale + _MARGIN + _CAPTION
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def turns(self, geometry: BaseGeometry) -> list[float]:
        """By how many degrees a geometry is shifted to be seen: none, one or several of -360, 0, 360."""
        west, south, east, north = geometry.bounds
        if north < self.south or south > self.north:
            return []
        return [turn for turn in (-360.0, 0.0, 360.0) if west + turn < self.east and east + turn > self.west]


def _squeeze(south: float, north: float) -> float:
    return max(float(np.cos(np.radians((south + north) / 2))), 0.1)


def draw(spec: GridSpec, region: Region, cells: CellSource, path: Path) -> int:
    """Draw the finest resolution whose cells can be told apart, over the base cells' sides, and return it.

    Args:
        spec: the grid's definition.
        region: its area.
        cells: gives the stored cells of a resolution, in chunks.
        path: where the PNG goes.
    """
    from PIL import Image, ImageDraw

    shown, found = _finest(spec, cells)
    view = _View.of(spec.bbox)
    image = Image.new("RGB", view.size, _SEA)
    pen = ImageDraw.Draw(image)
    for code, shape in countries.outline():
        if code != spec.label:  # drawn finer below
            _polygons(pen, view, shape, fill=_LAND, outline=_BORDER)
    _polygons(pen, view, region.geometry, fill=_AREA, outline=None, hole=_LAND)
    for shape in geodesy.polygons(found, shown):
        _polygons(pen, view, shape, fill=_FILL, outline=_EDGE)
    base = np.concatenate([*cells(spec.base_resolution), np.empty(0, dtype=np.int64)])
    if len(base) <= _MOST_CELLS and shown != spec.base_resolution:
        for shape in geodesy.polygons(base, spec.base_resolution):
            _lines(pen, view, shape, _BASE_EDGE, 2)
    _lines(pen, view, region.geometry, _OUTLINE, 2 if shapely.get_num_coordinates(region.geometry) < _FINE_LINE else 1)
    _caption(pen, view, spec, shown, len(found))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    image.save(part, format="PNG")
    part.replace(path)
    return shown


def _finest(spec: GridSpec, cells: CellSource) -> tuple[int, Cells]:
    """The finest resolution of at most so many cells; of the base resolution the first of them at the worst."""
    best: tuple[int, Cells] = (spec.base_resolution, np.empty(0, dtype=np.int64))
    for resolution in spec.resolutions:
        kept: list[Cells] = []
        for chunk in cells(resolution):
            kept.append(chunk)
            if sum(map(len, kept)) > _MOST_CELLS:
                break
        found = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        if len(found) > _MOST_CELLS:
            return best if len(best[1]) else (resolution, bits.children(found[:_MOST_CELLS], resolution))
        best = (resolution, found)
    return best


def _polygons(
    pen: ImageDraw.ImageDraw,
    view: _View,
    shape: BaseGeometry,
    *,
    fill: tuple[int, int, int],
    outline: tuple[int, int, int] | None,
    hole: tuple[int, int, int] | None = None,
) -> None:
    for part in shapely.get_parts(shape):
        for turn in view.turns(part):
            pen.polygon(view.pixels(np.add(shapely.get_coordinates(part.exterior), [turn, 0.0])), fill, outline)
            for ring in part.interiors if hole is not None else ():
                pen.polygon(view.pixels(np.add(shapely.get_coordinates(ring), [turn, 0.0])), hole)


def _lines(pen: ImageDraw.ImageDraw, view: _View, shape: BaseGeometry, color: tuple[int, int, int], width: int) -> None:
    for part in shapely.get_parts(shape):
        for turn in view.turns(part):
            for ring in (part.exterior, *part.interiors):
                for run in _without_map_edges(shapely.get_coordinates(ring)):
                    pen.line(view.pixels(run + np.array([turn, 0.0])), fill=color, width=width, joint="curve")


def _without_map_edges(ring: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The runs of a ring between its sides along the antimeridian and the poles, where only the map ends."""
    start, end = ring[:-1], ring[1:]
    at_seam = (np.abs(start[:, 0]) == 180.0) & (start[:, 0] == end[:, 0])
    at_pole = (np.abs(start[:, 1]) == 90.0) & (start[:, 1] == end[:, 1])
    breaks = np.flatnonzero(at_seam | at_pole)
    return [run for run in np.split(ring, breaks + 1) if len(run) > 1]


def _caption(pen: ImageDraw.ImageDraw, view: _View, spec: GridSpec, shown: int, cells: int) -> None:
    from PIL import ImageFont

    large, small = ImageFont.load_default(size=22), ImageFont.load_default(size=15)
    words: Mapping[str, str] = {
        "title": f"{spec.label}: H3 grid, {spec.method}, containment {spec.containment}",
        "detail": f"resolution {shown}: {cells:,} cells (blue), base resolution {spec.base_resolution} (orange), "
        f"stored {spec.resolutions[0]} to {spec.resolutions[-1]}",
    }
    pen.rectangle((0, 0, view.size[0], _CAPTION), fill=(255, 255, 255))
    pen.text((_MARGIN, 10), words["title"], fill=_TEXT, font=large)
    pen.text((_MARGIN, 40), words["detail"], fill=_TEXT, font=small)
