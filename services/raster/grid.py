"""The grid that a raster is warped onto, where GDAL's own suggestion would tear or stretch it out of all use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.raster.errors import Code, RasterError
from services.raster.footprint import footprint
from services.raster.profile import Profile, crs_name

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

MERCATOR_LATITUDE = 85.0511287798066
"""Where web maps end: the world is a square there, and infinitely high at the poles (degrees)."""

_POINTS = 129


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of ``width`` x ``height`` pixels at ``transform`` in the target CRS."""

    transform: Affine
    width: int
    height: int


def grid_for(profile: Profile, target: CRS) -> Grid | None:
    """The grid to warp onto, or None where GDAL's suggestion is right.

    A raster that reaches beyond 85.05 degrees is clipped there in a Mercator projection.

    Raises:
        RasterError: CRS_NOT_TRANSFORMABLE when the target's edge runs through the raster.
    """
    if not target.is_projected:
        return None
    outline = footprint(profile)
    if outline is None:
        return None
    west, south, east, north = outline.bbox
    if west > east and _is_torn(target, (south + north) / 2):
        raise RasterError(
            Code.CRS_NOT_TRANSFORMABLE,
            f"target_crs: the edge of {crs_name(target)} runs through the raster, which crosses the 180th meridian; "
            "choose EPSG:4326 or a CRS that is centred on it",
        )
    if _is_mercator(target) and max(-south, north) > MERCATOR_LATITUDE:
        return _clipped(profile, target)
    return None


def shown_share(profile: Profile) -> float:
    """The share of a raster's rows that lie within the latitudes of a Mercator map, from 0 to 1."""
    outline = footprint(profile)
    if outline is None or outline.bbox[3] <= outline.bbox[1]:
        return 1.0
    south, north = outline.bbox[1], outline.bbox[3]
    shown = min(north, MERCATOR_LATITUDE) - max(south, -MERCATOR_LATITUDE)
    return max(0.01, min(1.0, shown / (north - south)))


def _is_torn(target: CRS, latitude: float) -> bool:
    """Whether places on either side of the 180th meridian lie far apart in ``target``."""
    from pyproj import Transformer

    there = Transformer.from_crs("EPSG:4326", target.to_wkt(), always_xy=True)
    (x1, x2), (y1, y2) = there.transform((179.999, -179.999), (latitude, latitude))
    apart = math.hypot(x2 - x1, y2 - y1) * target.linear_units_factor[1]
    return not apart < 1e6


def _is_mercator(target: CRS) -> bool:
    from pyproj import CRS as ProjCRS

    operation = ProjCRS.from_wkt(target.to_wkt()).coordinate_operation
    return operation is not None and "Mercator" in operation.method_name and "Transverse" not in operation.method_name


def _clipped(profile: Profile, target: CRS) -> Grid:
    """The raster's extent within the latitudes of the map, with as many pixels along the diagonal as it has."""
    import numpy as np
    from affine import Affine
    from pyproj import Transformer

    columns, rows = np.meshgrid(np.linspace(0, profile.width, _POINTS), np.linspace(0, profile.height, _POINTS))
    x, y = profile.ground(columns.ravel(), rows.ravel())
    crs: Any = profile.crs
    longitudes, latitudes = Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True).transform(x, y)
    latitudes = np.clip(latitudes, -MERCATOR_LATITUDE, MERCATOR_LATITUDE)
    xs, ys = Transformer.from_crs("EPSG:4326", target.to_wkt(), always_xy=True).transform(longitudes, latitudes)
    placed = np.isfinite(xs) & np.isfinite(ys)
    left, right, bottom, top = (float(edge) for edge in (*_ends(xs[placed]), *_ends(ys[placed])))
    if not (right > left and top > bottom):
        raise RasterError(
            Code.CRS_NOT_TRANSFORMABLE, f"target_crs: nothing of the raster lies within the reach of {crs_name(target)}"
        )
    size = math.hypot(right - left, top - bottom) / math.hypot(profile.width, profile.height)
    return Grid(
        Affine(size, 0.0, left, 0.0, -size, top),
        max(1, math.ceil((right - left) / size - 1e-6)),
        max(1, math.ceil((top - bottom) / size - 1e-6)),
    )


def _ends(values: Any) -> tuple[Any, Any]:
    return (values.min(), values.max()) if values.size else (0.0, 0.0)
