"""Country boundaries that ship with the project: Natural Earth 1:10 million, by ISO 3166 alpha-3 code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from core.errors import PermanentError
from services.h3 import country_codes
from services.h3.antimeridian import canonical, cut

SOURCE = "Natural Earth 4.1.0, 1:10m Admin 0, by way of world-atlas 2.0.2 (public domain)"

_DECIMALS = 6  # of a degree: a tenth of a metre, far below the data's own grid of some 200 m


@dataclass(frozen=True, slots=True)
class Country:
    """A country's code, name and polygons within longitudes -180..180."""

    code: str
    name: str
    geometry: BaseGeometry


def country(code: str) -> Country:
    """A country by its alpha-3 code, in any case; ``LAND`` is all land.

    Raises:
        PermanentError: COUNTRY_UNKNOWN, with the closest codes.
    """
    try:
        wanted = country_codes.checked(code)
    except ValueError as error:
        raise PermanentError(f"area: {error}", code="COUNTRY_UNKNOWN", details={"given": code}) from None
    if wanted == country_codes.WORLD_LAND:
        return Country(wanted, "all land", _geometry(country_codes.index()["land"]))
    entry = country_codes.index()["countries"][wanted]
    return Country(wanted, entry["name"], _geometry(entry["polygons"]))


def countries_at(geometry: BaseGeometry) -> list[str]:
    """The codes of countries that a geometry shares some area with, as seen on the 1:110 million outline."""
    found = {code for code, shape in _outline() if shapely.intersects(shape, geometry)}
    return sorted(found)


def outline() -> Iterable[tuple[str, BaseGeometry]]:
    """All countries at 1:110 million, for maps: (code, polygons); the code is empty where there is none."""
    return _outline()


def _geometry(polygons: list[Any]) -> BaseGeometry:
    arcs = _Arcs.load()
    drawn = [[np.round(arcs.ring(ring), _DECIMALS) for ring in rings] for rings in polygons]
    # Islets smaller than the data's own grid are rings of fewer than four points: they have no area left.
    kept = [[ring for ring in rings if len(ring) >= 4] for rings in drawn if len(rings[0]) >= 4]
    shapes = [cut(rings, crossing=True, repair=True) for rings in kept]
    parts = shapely.get_parts(np.asarray(shapes))
    whole = shapely.multipolygons(parts)
    if not whole.is_valid:  # neighbouring islands that overlap at this scale
        whole = shapely.multipolygons(_joined(parts))
    return canonical(whole)


def _joined(parts: NDArray[np.object_]) -> NDArray[np.object_]:
    """The same polygons with those that meet made one: the union of all, of which most need no work."""
    parts = parts[~shapely.is_empty(parts)]
    parts = parts[np.argsort(-shapely.get_num_coordinates(parts), kind="stable")]
    shapely.prepare(parts)
    larger, smaller = shapely.STRtree(parts).query(parts)
    pairs = larger < smaller  # the prepared side of a comparison is the larger polygon, and each pair comes once
    larger, smaller = larger[pairs], smaller[pairs]
    meet = shapely.intersects(parts[larger], parts[smaller])
    meeting = np.unique([larger[meet], smaller[meet]])
    united = shapely.get_parts(shapely.union_all(parts[meeting]))
    return np.concatenate([np.delete(parts, meeting), united])


class _Arcs:
    """Shared boundary lines in integer coordinates; a negative number is an arc read backwards."""

    def __init__(self, deltas: NDArray[np.int32], offsets: NDArray[np.int32], scale: Any, translate: Any) -> None:
        self._deltas, self._offsets, self._scale, self._translate = deltas, offsets, scale, translate

    @staticmethod
    @cache
    def load() -> _Arcs:
        with (
            resources.files(__package__).joinpath("data", "countries_10m.npz").open("rb") as file,
            np.load(file) as data,
        ):
            return _Arcs(data["deltas"], data["offsets"], data["scale"], data["translate"])

    def ring(self, numbers: list[int]) -> NDArray[np.float64]:
        pieces = [self._arc(number)[bool(at) :] for at, number in enumerate(numbers)]
        points: NDArray[np.float64] = np.concatenate(pieces) * self._scale + self._translate
        return points

    def _arc(self, number: int) -> NDArray[np.int64]:
        at = number if number >= 0 else ~number
        points = np.cumsum(self._deltas[self._offsets[at] : self._offsets[at + 1]], axis=0, dtype=np.int64)
        return points if number >= 0 else points[::-1]


@cache
def _outline() -> list[tuple[str, BaseGeometry]]:
    text = resources.files(__package__).joinpath("data", "world_110m.geojson").read_text(encoding="utf-8")
    features = json.loads(text)["features"]
    return [(f["properties"]["iso_a3"] or "", shapely.from_geojson(json.dumps(f["geometry"]))) for f in features]
