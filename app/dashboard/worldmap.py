"""Small maps without a tile server: Natural Earth 1:110m outlines as one SVG, and footprints over it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

_LEAST_SPAN = 8.0  # degrees: a closer look shows no more of outlines this coarse
_SMALL = 3.0  # degrees: a footprint below this is also marked with a ring


@cache
def world_svg() -> bytes:
    """All land as an SVG picture: x is longitude, y is latitude turned round, in tenths of a degree."""
    source = resources.files("services.h3").joinpath("data", "world_110m.geojson")
    land = "".join(
        _coarse_ring(ring)
        for feature in json.loads(source.read_text(encoding="utf-8"))["features"]
        for polygon in _polygons(feature["geometry"])
        for ring in polygon
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1800 -900 3600 1800">'
        f'<path d="{land}" fill="#8b98a5" fill-opacity=".38" stroke="#8b98a5" stroke-width="1.4" stroke-opacity=".9"/>'
        "</svg>"
    ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintMap:
    """A footprint as an SVG path with two views of it: the world, and near by. ``ring`` marks a small one."""

    path: str
    near: str
    ring: tuple[float, float] | None
    line: float
    label: str


def footprint_map(geometry: Mapping[str, Any]) -> FootprintMap | None:
    """The map of a GeoJSON polygon or multipolygon; None when there is nothing to draw."""
    polygons = [polygon for polygon in _polygons(geometry) if polygon and len(polygon[0]) > 3]
    points = [point for polygon in polygons for point in polygon[0]]
    if not points:
        return None
    west, east = min(point[0] for point in points), max(point[0] for point in points)
    south, north = min(point[1] for point in points), max(point[1] for point in points)
    middle = ((west + east) / 2, (south + north) / 2)
    height = max(_LEAST_SPAN, (north - south) * 2.2, (east - west) * 1.1)
    width = height * 2
    near = f"{middle[0] - width / 2:.3f} {-middle[1] - height / 2:.3f} {width:.3f} {height:.3f}"
    return FootprintMap(
        path="".join(_ring(ring, digits=5) for polygon in polygons for ring in polygon),
        near=near,
        ring=(round(middle[0], 3), round(-middle[1], 3)) if max(east - west, north - south) < _SMALL else None,
        line=round(height / 160, 4),
        label=f"longitude {west:.4g} to {east:.4g}, latitude {south:.4g} to {north:.4g}",
    )


def _polygons(geometry: Mapping[str, Any]) -> Iterable[Sequence[Sequence[Sequence[float]]]]:
    match geometry.get("type"):
        case "Polygon":
            return [geometry["coordinates"]]
        case "MultiPolygon":
            return list(geometry["coordinates"])
        case "GeometryCollection":
            return [polygon for part in geometry["geometries"] for polygon in _polygons(part)]
        case _:
            return []


def _ring(ring: Sequence[Sequence[float]], *, digits: int) -> str:
    """A closed subpath; points that round to the one before are left out."""
    places: list[str] = []
    for longitude, latitude, *_ in ring:
        place = f"{round(longitude, digits):g} {round(-latitude, digits):g}"
        if not places or places[-1] != place:
            places.append(place)
    return f"M{'L'.join(places)}Z" if len(places) > 2 else ""


def _coarse_ring(ring: Sequence[Sequence[float]]) -> str:
    """A closed subpath in whole tenths of a degree, each point relative to the one before."""
    places = [(round(longitude * 10), round(-latitude * 10)) for longitude, latitude, *_ in ring]
    steps = [(x - u, y - v) for (u, v), (x, y) in pairwise(places) if (x, y) != (u, v)]
    path = "".join(f"{' ' if x >= 0 else ''}{x}{' ' if y >= 0 else ''}{y}" for x, y in steps)
    return f"M{places[0][0]} {places[0][1]}l{path.strip()}z" if len(steps) > 2 else ""
