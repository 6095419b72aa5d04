"""Polygons that cross the antimeridian or enclose a pole, cut at 180 degrees as RFC 7946 section 3.1.9 asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

Ring = NDArray[np.float64]
"""Closed ring, shape (n, 2): longitude, latitude in degrees."""


class InvalidPolygon(ValueError):
    """The polygon crosses itself or has no area; the message says where."""


def jumps(ring: Ring) -> NDArray[np.float64]:
    """How far each edge that spans more than 180 degrees of longitude is the other way round, in degrees."""
    spans = np.abs(np.diff(ring[:, 0]))
    return 360.0 - spans[spans > 180.0]


def cut(rings: Sequence[Ring], *, crossing: bool, repair: bool = False) -> BaseGeometry:
    """The polygon of ``rings`` (exterior first) as valid polygons within longitudes -180..180.

    Args:
        rings: longitudes may run past 180 (to 540 either way).
        crossing: read every edge longer than 180 degrees of longitude as the short way across the antimeridian. A ring
            that comes out a full turn away encloses the pole nearer to it.
        repair: make an invalid polygon valid, keeping what its rings enclose, rather than refuse it.

    Raises:
        InvalidPolygon: unless ``repair``.
    """
    crossing = crossing and any(len(jumps(ring)) for ring in rings)
    if not crossing:
        return _within_180(_valid(shapely.Polygon(rings[0], list(rings[1:])), repair=repair))
    pieces = [_within_180(_valid(shapely.Polygon(_unwrapped(ring)), repair=repair)) for ring in rings]
    holes = shapely.union_all(pieces[1:])
    return pieces[0] if holes.is_empty else shapely.difference(pieces[0], holes)


def canonical(geometry: BaseGeometry) -> BaseGeometry:
    """The same polygons as a multipolygon in one order, exteriors counter-clockwise as RFC 7946 has them."""
    return shapely.orient_polygons(shapely.normalize(shapely.multipolygons(shapely.get_parts(geometry))))


def _valid(polygon: BaseGeometry, *, repair: bool) -> BaseGeometry:
    if polygon.is_valid and polygon.area > 0:
        return polygon
    if not repair:
        raise InvalidPolygon(shapely.is_valid_reason(polygon) if not polygon.is_valid else "the polygon has no area")
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def _unwrapped(ring: Ring) -> Ring:
    steps = np.diff(ring[:, 0])
    steps -= 360.0 * np.round(steps / 360.0)
    turned = ring.copy()
    # Whole turns are added to the given longitudes, so that those stay the exact numbers they were.
    turned[1:, 0] += 360.0 * np.round((ring[0, 0] + np.cumsum(steps) - ring[1:, 0]) / 360.0)
    if abs(turned[-1, 0] - turned[0, 0]) < 180.0:
        return turned
    pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
    return np.vstack([turned, [[turned[-1, 0], pole], [turned[0, 0], pole]], turned[:1]])


def _within_180(polygon: BaseGeometry) -> BaseGeometry:
    if polygon.is_empty:
        return polygon
    west, _, east, _ = polygon.bounds
    if west >= -180.0 and east <= 180.0:
        return polygon
    pieces = []
    for turn in range(int(np.floor((west + 180.0) / 360.0)), int(np.ceil((east - 180.0) / 360.0)) + 1):
        window = shapely.box(360.0 * turn - 180.0, -90.0, 360.0 * turn + 180.0, 90.0)
        piece = _polygons_only(shapely.intersection(polygon, window))
        pieces.append(shapely.transform(piece, lambda points, by=360.0 * turn: points - [by, 0.0]))
    return shapely.union_all(pieces)


def _polygons_only(geometry: BaseGeometry) -> BaseGeometry:
    parts = shapely.get_parts(geometry)
    return shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
