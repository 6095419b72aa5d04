"""Polygons that cross the antimeridian or enclose a pole, cut at 180 degrees as RFC 7946 section 3.1.9 asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

Ring = NDArray[np.float64]
"""Closed ring, shape (n, 2): longitude, latitude in degrees."""


def jumps(ring: Ring) -> NDArray[np.intp]:
    """The edges longer than 180 degrees of longitude, but for those that follow a pole or join -180 to 180."""
    start, end = ring[:-1], ring[1:]
    far = np.abs(end[:, 0] - start[:, 0]) > 180.0
    along_pole = (np.abs(start[:, 1]) == 90.0) & (np.abs(end[:, 1]) == 90.0)
    seam_to_seam = (np.abs(start[:, 0]) == 180.0) & (np.abs(end[:, 0]) == 180.0)
    return np.flatnonzero(far & ~along_pole & ~seam_to_seam)


def cut(rings: Sequence[Ring], *, crossing: bool) -> BaseGeometry:
    """The polygon of ``rings`` (exterior first) within longitudes -180..180.

    Args:
        rings: longitudes may run past 180 (to 540 either way).
        crossing: read every edge longer than 180 degrees of longitude as the short way across the antimeridian. A ring
            that comes out a full turn away encloses the pole nearer to it.
    """
    if not crossing and all(np.abs(ring[:, 0]).max() <= 180.0 for ring in rings):
        return shapely.Polygon(rings[0], list(rings[1:]))
    pieces = [_within_180(shapely.Polygon(_unwrapped(ring) if crossing else ring)) for ring in rings]
    if len(pieces) == 1:
        return pieces[0]
    return shapely.difference(pieces[0], shapely.union_all(pieces[1:]))


def _unwrapped(ring: Ring) -> Ring:
    steps = np.diff(ring[:, 0])
    steps -= 360.0 * np.round(steps / 360.0)
    turned = ring.copy()
    # Whole turns are added to the given longitudes, so that these stay the exact numbers they were.
    turned[1:, 0] += 360.0 * np.round((ring[0, 0] + np.cumsum(steps) - ring[1:, 0]) / 360.0)
    if abs(turned[-1, 0] - turned[0, 0]) < 180.0:
        return turned
    pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
    return np.vstack([turned, [[turned[-1, 0], pole], [turned[0, 0], pole]], turned[:1]])


def _within_180(polygon: BaseGeometry) -> BaseGeometry:
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
