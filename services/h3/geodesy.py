"""Cells as places: centres, bounding boxes and polygons in longitude and latitude, for whole arrays.

Cell edges are straight lines between vertices in the plane of longitude and latitude, as the H3 library draws them when
it compares cells with polygons.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import shapely
from h3ronpy.vector import cells_to_coordinates, cells_to_wkb_polygons, coordinates_to_cells
from numpy.typing import NDArray

from services.h3.bits import Cells

Degrees = NDArray[np.float64]
Geometries = NDArray[np.object_]

DESCENDANT_RADIUS = 0.24
"""No vertex of any descendant of a cell of resolution r lies farther from its centre than this times 7 ** (-r / 2)
radians. The largest found over all cells of resolutions 0 to 3 is 0.2276; from there on the grid is self-similar."""

_MARGIN = 1e-9  # degrees


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes around cells' centres as rings, cut at the antimeridian: ``main`` for each, ``rest`` for ``split``."""

    longitudes: Degrees
    latitudes: Degrees
    main: Geometries
    split: NDArray[np.intp]
    rest: Geometries


def centres(cells: Cells) -> tuple[Degrees, Degrees]:
    """Longitudes and latitudes of the cells' centres, degrees."""
    found = cells_to_coordinates(cells.astype(np.uint64))
    return np.asarray(found["lng"]), np.asarray(found["lat"])


def cells_at(longitudes: Degrees, latitudes: Degrees, resolution: int) -> Cells:
    """The cell that holds each point."""
    x, y = (np.ascontiguousarray(values, dtype=np.float64) for values in (longitudes, latitudes))
    found = coordinates_to_cells(y, x, int(resolution))
    return np.asarray(found).astype(np.int64)


def descendant_boxes(cells: Cells, resolution: int) -> Boxes:
    """For cells of one resolution: boxes that hold each cell and every descendant of it, of any resolution."""
    longitudes, latitudes = centres(cells)
    radius = DESCENDANT_RADIUS * 7.0 ** (-resolution / 2)
    south = latitudes - np.degrees(radius)
    north = latitudes + np.degrees(radius)
    to_pole = np.cos(np.radians(latitudes))
    sine = np.sin(radius) / np.maximum(to_pole, 1e-300)
    polar = (south <= -90.0) | (north >= 90.0) | (sine >= 1.0)
    half = np.where(polar, 180.0, np.degrees(np.arcsin(np.minimum(sine, 1.0)))) + _MARGIN
    west = np.where(polar, -180.0, longitudes - half)
    east = np.where(polar, 180.0, longitudes + half)
    south, north = np.maximum(south - _MARGIN, -90.0), np.minimum(north + _MARGIN, 90.0)
    main = _rings(np.maximum(west, -180.0), south, np.minimum(east, 180.0), north)
    split = np.flatnonzero((west < -180.0) | (east > 180.0))
    past_west = west[split] < -180.0
    rest = _rings(
        np.where(past_west, west[split] + 360.0, -180.0),
        south[split],
        np.where(past_west, 180.0, east[split] - 360.0),
        north[split],
    )
    return Boxes(longitudes, latitudes, main, split, rest)


def _rings(west: Degrees, south: Degrees, east: Degrees, north: Degrees) -> Geometries:
    corners = np.empty((len(west), 5, 2))
    corners[:, :, 0] = np.column_stack([west, east, east, west, west])
    corners[:, :, 1] = np.column_stack([south, south, north, north, south])
    rings: Geometries = shapely.linearrings(corners) if len(corners) else np.empty(0, dtype=object)
    return rings


def polygons(cells: Cells, resolution: int) -> Geometries:
    """The cells' polygons within longitudes -180..180: a multipolygon where a cell crosses the antimeridian.

    A cell that holds a pole is drawn down to the line that the pole is on such a map.
    """
    shapes: Geometries = shapely.from_wkb(np.asarray(cells_to_wkb_polygons(cells.astype(np.uint64)).to_pylist()))
    longitudes, _ = centres(cells)
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    points[:, 0] -= 360.0 * np.round((points[:, 0] - longitudes[owner]) / 360.0)
    outside = np.unique(owner[np.abs(points[:, 0]) > 180.0])
    polar = np.flatnonzero(np.isin(cells, polar_cells(resolution)))
    if not len(outside) and not len(polar):
        return shapes
    shapes = shapely.set_coordinates(shapes, points)
    for at in outside:
        shapes[at] = _cut(shapes[at])
    for at in polar:
        shapes[at] = _polar_polygon(points[owner == at])
    return shapes


@cache
def polar_cells(resolution: int) -> Cells:
    """The two cells that hold a pole."""
    return cells_at(np.zeros(2), np.array([90.0, -90.0]), resolution)


def _cut(polygon: shapely.Polygon) -> shapely.Geometry:
    from services.h3.antimeridian import cut

    return cut([shapely.get_coordinates(polygon.exterior)], crossing=False)


def _polar_polygon(points: Degrees) -> shapely.Polygon:
    """The ring of vertices around a pole, unrolled from -180 to 180 and closed along the pole."""
    ring = points[:-1].copy()
    ring[:, 0] = (ring[:, 0] + 180.0) % 360.0 - 180.0
    ring = ring[np.argsort(ring[:, 0])]
    first, last = ring[0], ring[-1]
    share = (180.0 - last[0]) / (first[0] + 360.0 - last[0])
    at_seam = last[1] + share * (first[1] - last[1])
    pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
    return shapely.Polygon([(-180.0, pole), (-180.0, at_seam), *ring, (180.0, at_seam), (180.0, pole)])
