"""Footprints: a raster's outline in longitude and latitude, right at the antimeridian, the poles and the limb.

Geometries follow RFC 7946: degrees on WGS 84, exterior rings counter-clockwise, cut at the antimeridian (3.1.9), and a
bounding box whose west is greater than its east when it crosses it (5.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.raster.errors import Code, RasterError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rasterio.crs import CRS
    from shapely.geometry.base import BaseGeometry

    from services.raster.profile import Profile

    Floats = npt.NDArray[np.float64]
    Project = Callable[[Floats, Floats], tuple[Floats, Floats]]

_EARTH_RADIUS = 6_378_137.0
_STEPS = 64
_RAYS = 360
_DIGITS = 7
_SIMPLIFY = 1e-5
_SEAM = 1e-9
"""Degrees by which the edges of two parts of one polygon may miss each other, after their turns."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """GeoJSON ``geometry`` and ``bbox`` (west, south, east, north) in degrees."""

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def is_on_earth(crs: CRS) -> bool:
    """Whether the CRS is bound to the Earth: geographic or projected, on an ellipsoid of the Earth's size."""
    from pyproj import CRS as ProjCRS
    from pyproj.exceptions import CRSError

    try:
        known = ProjCRS.from_wkt(crs.to_wkt())
    except CRSError:
        return False
    ellipsoid = known.ellipsoid
    if not (known.is_geographic or known.is_projected) or ellipsoid is None:
        return False
    return abs(ellipsoid.semi_major_metre - _EARTH_RADIUS) < 0.01 * _EARTH_RADIUS


def covers_earth(profile: Profile) -> str | None:
    """What is wrong with a raster's place on Earth, or None."""
    try:
        outline = footprint(profile)
    except RasterError as error:
        return str(error)
    if profile.crs is not None and profile.crs.is_geographic:
        if any(abs(latitude) > 90.01 for _, latitude in profile.corners):
            return "latitudes beyond the poles: the axes may be swapped, or the CRS wrong"
        if any(abs(longitude) > 360.01 for longitude, _ in profile.corners):
            return "longitudes beyond 360 degrees: the CRS may be wrong"
    if outline is None:
        return None
    west, south, east, north = outline.bbox
    if abs(west) < 1e-3 and abs(south) < 1e-3 and abs(east) < 1e-3 and abs(north) < 1e-3:
        return "the raster lies on longitude 0, latitude 0: its geotransform may be missing"
    return None


def footprint(profile: Profile) -> Footprint | None:
    """The outline of all of a raster's pixels; None when its CRS is not on Earth, or ground control points place it.

    Where a part cannot be projected (beyond the limb of a geostationary image), the outline of the rest.

    Raises:
        RasterError: CRS_NOT_TRANSFORMABLE when nothing of the raster is on Earth.
    """
    import numpy as np

    if profile.crs is None or profile.gcp_bounds is not None or not is_on_earth(profile.crs):
        return None
    project = _to_degrees(profile.crs)

    def place(columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        return project(*profile.ground(columns, rows))

    longitudes, latitudes = place(*_outline(profile.width, profile.height))
    if not np.isfinite(longitudes).all():
        columns, rows = _visible_outline(profile, place)
        longitudes, latitudes = place(columns, rows)
    ring = _unwrapped(longitudes)
    winding = ring[-1] - ring[0]
    if abs(winding) > 180.0:
        return _around_pole(ring, latitudes, north=_pole_is_north(profile, latitudes))
    return _as_footprint(ring, latitudes)


_LINEAR_LONGITUDE = (
    "Mercator",
    "Pseudo Mercator",
    "Equidistant Cylindrical",
    "Plate",
    "Equirectangular",
    "Cylindrical Equal Area",
)


def _to_degrees(crs: CRS) -> Project:
    import numpy as np
    from pyproj import CRS as ProjCRS
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    known = ProjCRS.from_wkt(crs.to_wkt())
    try:
        there = Transformer.from_crs(known, "EPSG:4326", always_xy=True)
    except ProjError as error:
        raise RasterError(
            Code.CRS_NOT_TRANSFORMABLE, f"no way from {known.name} to longitude and latitude: {error}"
        ) from error
    operation = known.coordinate_operation
    method = "" if operation is None else operation.method_name
    ambiguous = known.is_projected and not any(name in method for name in _LINEAR_LONGITUDE)
    if known.is_geographic and _is_degrees(known) and abs(_prime_meridian(known)) < 1e-9:
        there_back = None
    else:
        there_back = there if ambiguous else None

    def project(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        longitudes, latitudes = (np.asarray(values, dtype=np.float64) for values in there.transform(x, y))
        bad = ~np.isfinite(longitudes) | ~np.isfinite(latitudes) | (np.abs(latitudes) > 90.0 + 1e-6)
        if there_back is not None:
            back_x, back_y = there_back.transform(longitudes, latitudes, direction="INVERSE")
            with np.errstate(invalid="ignore"):
                size = max(float(np.nanmax(np.abs(x), initial=1.0)), float(np.nanmax(np.abs(y), initial=1.0)))
                bad |= ~(np.hypot(back_x - x, back_y - y) < 1e-4 * size)
        return np.where(bad, np.nan, longitudes), np.where(bad, np.nan, np.clip(latitudes, -90.0, 90.0))

    return project


def _is_degrees(crs: Any) -> bool:
    return all(axis.unit_name == "degree" for axis in crs.axis_info[:2])


def _prime_meridian(crs: Any) -> float:
    return float(crs.prime_meridian.longitude) if crs.prime_meridian is not None else 0.0


def _outline(width: int, height: int) -> tuple[Floats, Floats]:
    """The raster's edge in pixel coordinates, closed, 64 steps a side."""
    import numpy as np

    along = np.linspace(0.0, 1.0, _STEPS + 1)
    zero, one = np.zeros_like(along[1:]), np.ones_like(along[1:])
    columns = np.concatenate([along, one, along[::-1][1:], zero]) * width
    rows = np.concatenate([np.zeros_like(along), along[1:], one, along[::-1][1:]]) * height
    return columns, rows


def _visible_outline(profile: Profile, place: Project) -> tuple[Floats, Floats]:
    """The edge of the part that can be projected, in pixel coordinates: the farthest point on rays from its middle."""
    import numpy as np

    across_grid, down_grid = np.meshgrid(
        np.linspace(0.0, profile.width, _STEPS + 1), np.linspace(0.0, profile.height, _STEPS + 1)
    )
    grid_columns, grid_rows = across_grid.ravel(), down_grid.ravel()
    visible = np.isfinite(place(grid_columns, grid_rows)[0])
    if not visible.any():
        raise RasterError(Code.CRS_NOT_TRANSFORMABLE, "no part of the raster can be placed in longitude and latitude")
    middle_column, middle_row = float(grid_columns[visible].mean()), float(grid_rows[visible].mean())
    if not np.isfinite(place(np.array([middle_column]), np.array([middle_row]))[0][0]):
        nearest = np.argmin(np.hypot(grid_columns[visible] - middle_column, grid_rows[visible] - middle_row))
        middle_column, middle_row = float(grid_columns[visible][nearest]), float(grid_rows[visible][nearest])
    angles = np.linspace(0.0, 2.0 * math.pi, _RAYS + 1)
    across, down = np.cos(angles), np.sin(angles)
    with np.errstate(divide="ignore"):
        to_side = np.where(across > 0, (profile.width - middle_column) / across, -middle_column / across)
        to_end = np.where(down > 0, (profile.height - middle_row) / down, -middle_row / down)
    outside = np.fmin(np.where(across == 0, np.inf, to_side), np.where(down == 0, np.inf, to_end))
    inside = np.zeros_like(outside)
    edge = np.isfinite(place(middle_column + outside * across, middle_row + outside * down)[0])
    inside[edge] = outside[edge]
    for _ in range(40):
        half = (inside + outside) / 2
        seen = np.isfinite(place(middle_column + half * across, middle_row + half * down)[0])
        inside, outside = np.where(seen, half, inside), np.where(seen, outside, half)
    return middle_column + inside * across, middle_row + inside * down


def _unwrapped(longitudes: Floats) -> Floats:
    """Longitudes with no jump of more than half a turn from one point to the next."""
    import numpy as np

    return np.asarray(np.rad2deg(np.unwrap(np.deg2rad(longitudes))), dtype=np.float64)


def _pole_is_north(profile: Profile, latitudes: Floats) -> bool:
    import numpy as np
    from pyproj import Transformer

    there = Transformer.from_crs("EPSG:4326", profile.crs.to_wkt(), always_xy=True)  # type: ignore[union-attr]
    inverse = ~profile.transform
    inside = []
    for pole in (90.0, -90.0):
        x, y = there.transform(0.0, pole)
        if not (math.isfinite(x) and math.isfinite(y)):
            inside.append(False)
            continue
        column = inverse.a * x + inverse.b * y + inverse.c
        row = inverse.d * x + inverse.e * y + inverse.f
        inside.append(0 <= column <= profile.width and 0 <= row <= profile.height)
    if inside[0] != inside[1]:
        return inside[0]
    return float(np.mean(latitudes)) > 0


def _around_pole(ring: Floats, latitudes: Floats, *, north: bool) -> Footprint:
    """A polygon that holds a pole: its ring, cut at the antimeridian and led along it to the pole and back."""
    import numpy as np
    from shapely.geometry import Polygon

    if ring[-1] < ring[0]:
        ring, latitudes = ring[::-1], latitudes[::-1]
    pole = 90.0 if north else -90.0
    points = [*zip(ring, latitudes, strict=True), (ring[-1], pole), (ring[0], pole)]
    geometry = _wrapped(Polygon(points))
    edge = float(np.min(latitudes) if north else np.max(latitudes))
    box = (-180.0, _rounded(edge), 180.0, 90.0) if north else (-180.0, -90.0, 180.0, _rounded(edge))
    return Footprint(_geojson(geometry), box)


def _as_footprint(ring: Floats, latitudes: Floats) -> Footprint:
    import numpy as np
    from shapely.affinity import affine_transform
    from shapely.geometry import Polygon

    # Simplified by shares of its extents: near a pole they differ by orders of magnitude.
    west, south = float(ring.min()), float(latitudes.min())
    across, up = max(float(np.ptp(ring)), 1e-12), max(float(np.ptp(latitudes)), 1e-12)
    shares = Polygon(zip((ring - west) / across, (latitudes - south) / up, strict=True)).simplify(_SIMPLIFY)
    polygon = affine_transform(shares, [across, 0.0, 0.0, up, west, south])
    left, south, right, north = polygon.bounds
    if right - left >= 360.0 - 1e-9:
        west, east = -180.0, 180.0
    else:
        west, east = _into_circle(left), _into_circle(right, closed=True)
    digits = _digits_for(min(right - left, north - south))
    west, south, east, north = (_rounded(value, digits) for value in (west, south, east, north))
    return Footprint(_geojson(_wrapped(polygon), digits), (west, south, east, north))


def _digits_for(extent: float) -> int:
    """How many decimals tell a polygon of that extent to a ten-thousandth, at least the centimetre's."""
    return _DIGITS if extent <= 0 else min(15, max(_DIGITS, 4 - math.floor(math.log10(extent))))


def _into_circle(longitude: float, *, closed: bool = False) -> float:
    """``longitude`` in [-180, 180), or in (-180, 180] when ``closed``."""
    turned = (longitude + 180.0) % 360.0 - 180.0
    if abs(turned + 180.0) < 1e-9:
        return 180.0 if closed else -180.0
    if abs(turned - 180.0) < 1e-9:
        return 180.0 if closed else -180.0
    return turned


def _wrapped(polygon: BaseGeometry) -> BaseGeometry:
    """A polygon whose longitudes may run beyond ±180 as parts that do not."""
    from shapely import make_valid, union_all
    from shapely.affinity import translate
    from shapely.geometry import box

    polygon = make_valid(polygon)
    west, _, east, _ = polygon.bounds
    parts = []
    for turn in range(math.floor((west + 180.0) / 360.0), math.floor((east + 180.0) / 360.0) + 1):
        shift = 360.0 * turn
        part = polygon.intersection(box(shift - 180.0, -90.0, shift + 180.0, 90.0))
        if part.area > 0:
            parts.append(translate(part, -shift))
    if len(parts) > 1:
        return union_all(parts, grid_size=_SEAM)
    return parts[0] if parts else polygon


def _geojson(geometry: BaseGeometry, digits: int = _DIGITS) -> dict[str, Any]:
    from shapely import get_parts

    polygons = [part for part in get_parts(geometry) if part.geom_type == "Polygon" and part.area > 0]
    if not polygons:
        raise RasterError(Code.CRS_NOT_TRANSFORMABLE, "the raster's outline has no area in longitude and latitude")
    rings = [[_ring(polygon.exterior.coords, digits)] for polygon in polygons]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _ring(points: Sequence[tuple[float, ...]], digits: int) -> list[list[float]]:
    from shapely.geometry import LinearRing, Polygon

    rounded: list[list[float]] = []
    for longitude, latitude in points:
        point = [_rounded(longitude, digits), _rounded(latitude, digits)]
        if not rounded or rounded[-1] != point:
            rounded.append(point)
    if len(rounded) < 4 or not Polygon(rounded).is_valid:
        rounded = [[longitude, latitude] for longitude, latitude in points]
    return rounded if LinearRing(rounded).is_ccw else rounded[::-1]


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return round(value, digits) + 0.0


def crosses_antimeridian(profile: Profile) -> bool:
    """Whether the raster lies on both sides of the 180th meridian without going around the Earth."""
    try:
        outline = footprint(profile)
    except RasterError:
        return False
    return outline is not None and outline.bbox[0] > outline.bbox[2]
