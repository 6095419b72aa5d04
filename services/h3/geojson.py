"""Polygons out of GeoJSON (RFC 7946), checked: a clear refusal beats a grid of the wrong place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from core.errors import PermanentError
from services.h3.antimeridian import InvalidPolygon, Ring, canonical, cut, jumps

_CRS84 = ("CRS84", "OGC:CRS84", "EPSG:4326", "EPSG::4326", "urn:ogc:def:crs:OGC:1.3:CRS84")

# A boundary drawn with at least so many corners steps over the antimeridian by small steps; a box of four corners whose
# sides are wider than 180 degrees may mean either way round.
_DRAWN_CORNERS = 12
_SMALL_STEP = 10.0  # degrees


def refuse(message: str, code: str, **details: Any) -> PermanentError:
    """The error for an area that cannot be used."""
    return PermanentError(f"area: {message}", code=code, details=details)


def polygons_from_geojson(document: Mapping[str, Any], *, repair: bool = False) -> BaseGeometry:
    """All polygons of a geometry, feature or collection, joined, valid, within longitudes -180..180.

    Args:
        document: any GeoJSON object that holds polygons and nothing else.
        repair: make invalid polygons valid, keeping what their rings enclose, rather than refuse them.

    Raises:
        PermanentError: NOT_GEOJSON, NOT_A_POLYGON, NOT_WGS84, COORDINATES_OUT_OF_RANGE, AMBIGUOUS_ANTIMERIDIAN or
            INVALID_GEOMETRY.
    """
    _check_crs(document)
    shapes = [_polygon(rings, repair=repair) for rings in _polygons(document)]
    if not shapes:
        raise refuse("the GeoJSON holds no polygon", "NOT_A_POLYGON")
    parts = shapely.get_parts(np.asarray(shapes))
    parts = parts[shapely.area(parts) > 0]
    if not len(parts):
        raise refuse("the polygon has no area", "INVALID_GEOMETRY")
    whole = shapely.multipolygons(parts)
    if not whole.is_valid:  # parts that overlap or share a side
        whole = shapely.union_all(parts)
    return canonical(whole)


def _check_crs(document: Mapping[str, Any]) -> None:
    crs = document.get("crs")
    if crs is None:
        return
    name = str(crs.get("properties", {}).get("name", crs)) if isinstance(crs, Mapping) else str(crs)
    if not name.endswith(_CRS84):
        raise refuse(
            f"coordinates must be WGS 84 longitude and latitude; the GeoJSON names {name!r}", "NOT_WGS84", given=name
        )


def _polygons(node: Any) -> Iterator[Sequence[Any]]:
    match node:
        case {"type": "FeatureCollection", "features": [*features]}:
            for feature in features:
                yield from _polygons(feature)
        case {"type": "Feature", "geometry": geometry}:
            if geometry is not None:
                yield from _polygons(geometry)
        case {"type": "GeometryCollection", "geometries": [*geometries]}:
            for geometry in geometries:
                yield from _polygons(geometry)
        case {"type": "Polygon", "coordinates": [*rings]}:
            yield rings
        case {"type": "MultiPolygon", "coordinates": [*polygons]}:
            yield from polygons
        case {"type": ("Point" | "MultiPoint" | "LineString" | "MultiLineString") as kind}:
            raise refuse(f"must be polygons; the GeoJSON holds a {kind}", "NOT_A_POLYGON", given=kind)
        case _:
            kind = node.get("type") if isinstance(node, Mapping) else type(node).__name__
            raise refuse(f"is no GeoJSON object of polygons (type {kind!r})", "NOT_GEOJSON", given=str(kind))


def _polygon(rings: Sequence[Any], *, repair: bool) -> BaseGeometry:
    if not rings:
        raise refuse("a polygon has no rings", "NOT_GEOJSON")
    checked = [_ring(ring) for ring in rings]
    try:
        return cut(checked, crossing=any(_crosses(ring) for ring in checked), repair=repair)
    except InvalidPolygon as error:
        raise refuse(
            f"the polygon is not valid: {error}; correct it, or set repair_geometry",
            "INVALID_GEOMETRY",
            reason=str(error),
        ) from error


def _ring(points: Any) -> Ring:
    try:
        ring = np.asarray([(float(point[0]), float(point[1])) for point in points])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise refuse("a ring is no list of [longitude, latitude] positions", "NOT_GEOJSON") from error
    if len(ring) < 4 or not np.isfinite(ring).all():
        raise refuse("a ring needs at least four positions, all of them finite numbers", "NOT_GEOJSON")
    check_range(ring)
    if not np.array_equal(ring[0], ring[-1]):
        raise refuse("a ring must end where it starts", "NOT_GEOJSON", first=list(ring[0]), last=list(ring[-1]))
    return ring


def check_range(points: Ring) -> None:
    """Refuse positions that are no longitude and latitude, naming the likely cause."""
    longitudes, latitudes = np.abs(points[:, 0]).max(), np.abs(points[:, 1]).max()
    if latitudes <= 90.0 and longitudes <= 360.0:
        return
    if latitudes <= 180.0 and longitudes <= 90.0:
        cause = "longitude and latitude are swapped: GeoJSON has longitude first"
    else:
        cause = "they look like projected coordinates: GeoJSON is in degrees (WGS 84)"
    raise refuse(
        f"positions reach {longitudes:g} in longitude and {latitudes:g} in latitude; {cause}",
        "COORDINATES_OUT_OF_RANGE",
        longitude=float(longitudes),
        latitude=float(latitudes),
    )


def _crosses(ring: Ring) -> bool:
    """Whether the ring steps over the antimeridian; a box that may mean either way round is refused."""
    found = jumps(ring)
    long_way = _along_edges_of_the_map(ring)
    if not len(found) or long_way:
        return False
    if len(ring) - 1 >= _DRAWN_CORNERS and found.max() <= _SMALL_STEP:
        return True
    raise refuse(
        "an edge spans more than 180 degrees of longitude, which may mean either way round the Earth; cut the polygon"
        " at the antimeridian (RFC 7946, section 3.1.9), put more corners on a side that is meant to be that long, or"
        " give a bbox [west, south, east, north]",
        "AMBIGUOUS_ANTIMERIDIAN",
        edge_degrees=float(360.0 - found.min()),
    )


def _along_edges_of_the_map(ring: Ring) -> bool:
    """Whether every such edge runs along a pole, or from -180 to 180 in a ring with few corners."""
    start, end = ring[:-1], ring[1:]
    far = np.abs(end[:, 0] - start[:, 0]) > 180.0
    at_pole = (np.abs(start[:, 1]) == 90.0) & (np.abs(end[:, 1]) == 90.0)
    across = (np.abs(start[:, 0]) == 180.0) & (np.abs(end[:, 0]) == 180.0)
    return bool((at_pole | (across & (len(ring) <= _DRAWN_CORNERS)))[far].all())


def finite_numbers(values: Sequence[Any], count: int) -> bool:
    """Whether ``values`` are ``count`` finite numbers."""
    return len(values) == count and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
