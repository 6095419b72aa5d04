"""What a grid covers: a country, GeoJSON, a bounding box, a file or a URL, resolved to polygons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from services.h3 import countries
from services.h3.antimeridian import canonical, cut
from services.h3.area_file import ReadArea, read_local
from services.h3.geojson import check_range, finite_numbers, polygons_from_geojson, refuse

EQUATOR_KM = 6378.137  # WGS 84

AreaInput = str | Sequence[float] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Valid polygons within longitudes -180..180, and where they came from."""

    label: str
    source: str
    geometry: BaseGeometry
    notes: tuple[str, ...] = ()

    @property
    def wkb(self) -> bytes:
        """The geometry as little-endian WKB."""
        data: bytes = shapely.to_wkb(self.geometry, byte_order=1)
        return data

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of :attr:`wkb`."""
        return hashlib.sha256(self.wkb).hexdigest()

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees, as RFC 7946 has it: west > east across the antimeridian."""
        return bbox_of(self.geometry)

    @property
    def area_km2(self) -> float:
        """Area on the WGS 84 ellipsoid, with sides straight in longitude and latitude."""
        return float(shapely.transform(self.geometry, equal_area).area)


def equal_area(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitude and latitude (degrees) to the cylindrical equal-area plane of WGS 84, kilometres.

    Snyder, Map Projections: A Working Manual (1987), equations 3-12 and 10-15 with the equator as standard parallel.
    """
    a, e = EQUATOR_KM, 0.0818191908426215
    sine = np.sin(np.radians(points[:, 1]))
    q = (1 - e * e) * (sine / (1 - (e * sine) ** 2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))
    return np.column_stack([a * np.radians(points[:, 0]), a * q / 2])


def bbox_of(geometry: BaseGeometry) -> tuple[float, float, float, float]:
    """West, south, east, north: the narrowest box, so west > east where it crosses the antimeridian."""
    west, south, east, north = geometry.bounds
    spans = sorted((part.bounds[0], part.bounds[2]) for part in shapely.get_parts(geometry))
    reached, gap = spans[0][1], (360.0 - (east - west), west, east)
    for start, end in spans[1:]:
        gap = max(gap, (start - reached, start, reached))
        reached = max(reached, end)
    return gap[1], south, gap[2], north


def resolve_area(
    given: AreaInput, *, repair: bool = False, expected_country: str | None = None, read: ReadArea = read_local
) -> Area:
    """The area that a parameter names.

    Args:
        given: an ISO 3166 alpha-3 code (``LAND`` for all land), a bbox ``[west, south, east, north]`` (west > east
            crosses the antimeridian), a GeoJSON object, or the path or URL of a GeoJSON file.
        repair: make invalid polygons valid rather than refuse them.
        read: gives what is in a file.
        expected_country: refuse an area that shares nothing with this country: the guard against swapped axes.

    Raises:
        PermanentError: with a code that names the fault.
        TransientError: when a file cannot be had now.
    """
    match given:
        case str():
            area = _from_text(given.strip(), repair=repair, read=read)
        case Mapping():
            area = _from_document(given, label="geojson", source="GeoJSON parameter", repair=repair)
        case _:
            area = _from_bbox(list(given))
    if expected_country is not None:
        _check_country(area, expected_country)
    return area


def _from_text(text: str, *, repair: bool, read: ReadArea) -> Area:
    if "/" in text or "\\" in text or text.lower().endswith((".geojson", ".json")):
        name = text.partition("?")[0] if "://" in text else text
        source = "URL" if "://" in text else "file"
        return _from_document(_parsed(read(text), name), label=_stem(name), source=source, repair=repair)
    found = countries.country(text)
    return Area(label=found.code, source=countries.SOURCE, geometry=found.geometry)


def _from_document(document: Mapping[str, Any], *, label: str, source: str, repair: bool) -> Area:
    area = Area(label=label, source=source, geometry=polygons_from_geojson(document, repair=repair))
    return replace(area, notes=("invalid polygons were made valid where needed",)) if repair else area


def _from_bbox(values: list[Any]) -> Area:
    if not finite_numbers(values, 4):
        raise refuse("a bbox is four finite numbers: [west, south, east, north]", "BAD_BBOX", given=repr(values)[:200])
    west, south, east, north = map(float, values)
    check_range(np.asarray([(west, south), (east, north)]))
    if not -180.0 <= west <= 180.0 or not -180.0 <= east <= 180.0:
        raise refuse("longitudes of a bbox are within -180..180", "BAD_BBOX", given=values)
    if south >= north or west == east:
        raise refuse(
            "a bbox is [west, south, east, north] with south below north, and west > east across the antimeridian",
            "BAD_BBOX",
            given=values,
        )
    reach = east if east > west else east + 360.0
    ring = np.asarray([(west, south), (reach, south), (reach, north), (west, north), (west, south)])
    return Area(label="bbox", source="bbox", geometry=canonical(cut([ring], crossing=False)))


def _check_country(area: Area, code: str) -> None:
    country = countries.country(code)
    if shapely.intersects(area.geometry, country.geometry):
        return
    swapped = shapely.transform(area.geometry, lambda points: points[:, ::-1])
    cause = "; longitude and latitude look swapped" if shapely.intersects(swapped, country.geometry) else ""
    raise refuse(
        f"shares nothing with {country.name} ({country.code}){cause}",
        "OUTSIDE_EXPECTED_COUNTRY",
        bbox=list(area.bbox),
        lies_in=countries.countries_at(area.geometry)[:10],
    )


def _parsed(content: bytes, name: str) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refuse(f"{_stem(name)!r} is no GeoJSON: {error}", "NOT_GEOJSON") from error
    if not isinstance(document, Mapping):
        raise refuse(f"{_stem(name)!r} is no GeoJSON object", "NOT_GEOJSON")
    return document


def _stem(name: str) -> str:
    stem = name.replace("\\", "/").rsplit("/", 1)[-1]
    return stem.rsplit(".", 1)[0] or "area"
