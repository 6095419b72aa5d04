"""The facts of a raster that need no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from services.raster.errors import Code, RasterError

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader


class Georeferencing(StrEnum):
    """How pixels are placed on the ground."""

    TRANSFORM = "transform"
    GCPS = "gcps"
    RPCS = "rpcs"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a raster says of itself.

    ``shape`` is (height, width) in pixels, ``declared_bytes`` the size of its pixels uncompressed, ``nodata`` one value
    a band, ``gcp_bounds`` (left, bottom, right, top) of the ground control points when they alone place it.
    """

    driver: str
    shape: tuple[int, int]
    count: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    crs: CRS | None
    transform: Affine
    georeferencing: Georeferencing
    gcp_bounds: tuple[float, float, float, float] | None
    colorinterp: tuple[str, ...]
    descriptions: tuple[str | None, ...]
    units: tuple[str | None, ...]
    mask_flags: tuple[tuple[str, ...], ...]
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    compression: str | None
    has_colormap: bool
    declared_bytes: int
    file_bytes: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.shape[1]

    @property
    def dtype(self) -> str:
        """The type of the first band."""
        return self.dtypes[0]

    @property
    def has_alpha(self) -> bool:
        """Whether a band is an alpha band."""
        return "alpha" in self.colorinterp

    @property
    def has_nodata(self) -> bool:
        """Whether a nodata value is set."""
        return any(value is not None for value in self.nodata)

    @property
    def has_dataset_mask(self) -> bool:
        """Whether the raster carries a mask of its own (not alpha, not nodata)."""
        return any("per_dataset" in flags and "alpha" not in flags for flags in self.mask_flags)

    def ground(self, column: Any, row: Any) -> tuple[Any, Any]:
        """The (x, y) of a place, or arrays of places, in pixel coordinates (0, 0 is the first pixel's outer corner)."""
        transform = self.transform
        return (
            transform.a * column + transform.b * row + transform.c,
            transform.d * column + transform.e * row + transform.f,
        )

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The (x, y) of the four outer corners, in the order of the raster's edge."""
        height, width = self.shape
        return self.ground(0, 0), self.ground(width, 0), self.ground(width, height), self.ground(0, height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in units of the CRS, whichever way the raster is turned."""
        if self.gcp_bounds is not None:
            return self.gcp_bounds
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def is_rotated(self) -> bool:
        """Whether rows do not run along the x axis."""
        return bool(self.transform.b or self.transform.d)


COMPLEX = "complex"


def read_profile(dataset: DatasetReader, *, input_crs: str | None, file_bytes: int) -> Profile:
    """The facts of an open raster; ``input_crs`` stands in when it has no CRS of its own.

    Raises:
        RasterError: UNSUPPORTED_DTYPE, CRS_MISSING, RPC_ONLY or NOT_GEOREFERENCED.
    """
    import numpy as np
    from rasterio.enums import ColorInterp

    if any(COMPLEX in dtype for dtype in dataset.dtypes):
        raise RasterError(
            Code.UNSUPPORTED_DTYPE,
            f"the bands are {', '.join(sorted(set(dataset.dtypes)))}; complex pixels have no place in a COG for "
            "display or analysis: export amplitude or phase first",
            dtypes=list(dataset.dtypes),
        )
    georeferencing, crs = _placing(dataset, input_crs)
    return Profile(
        driver=dataset.driver,
        shape=(dataset.height, dataset.width),
        count=dataset.count,
        dtypes=tuple(dataset.dtypes),
        nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
        crs=crs,
        transform=dataset.transform,
        georeferencing=georeferencing,
        gcp_bounds=_extent(dataset.gcps[0]) if georeferencing is Georeferencing.GCPS else None,
        colorinterp=tuple(interp.name for interp in dataset.colorinterp),
        descriptions=tuple(dataset.descriptions),
        units=tuple(dataset.units),
        mask_flags=tuple(tuple(flag.name for flag in flags) for flags in dataset.mask_flag_enums),
        block_shape=dataset.block_shapes[0],
        overviews=tuple(dataset.overviews(1)),
        compression=None if dataset.compression is None else dataset.compression.name.lower(),
        has_colormap=ColorInterp.palette in dataset.colorinterp,
        declared_bytes=dataset.width * dataset.height * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes),
        file_bytes=file_bytes,
    )


def _extent(points: Sequence[Any]) -> tuple[float, float, float, float]:
    xs, ys = [float(point.x) for point in points], [float(point.y) for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def _placing(dataset: DatasetReader, input_crs: str | None) -> tuple[Georeferencing, CRS]:
    points, points_crs = dataset.gcps
    own = dataset.crs or None
    placed = not dataset.transform.is_identity
    if placed:
        if own is None and input_crs is None:
            raise RasterError(
                Code.CRS_MISSING,
                "the raster has no coordinate reference system; say which one its coordinates are in with input_crs "
                "(for example EPSG:32633)",
            )
        return Georeferencing.TRANSFORM, own or parsed_crs(str(input_crs))
    if points:
        if not points_crs and input_crs is None:
            raise RasterError(
                Code.CRS_MISSING,
                f"the raster has {len(points)} ground control points without a coordinate reference system; "
                "say which one they are in with input_crs",
            )
        return Georeferencing.GCPS, points_crs or parsed_crs(str(input_crs))
    if dataset.rpcs is not None:
        raise RasterError(
            Code.RPC_ONLY,
            "the raster is georeferenced by rational polynomial coefficients (RPC) only; it must be "
            "orthorectified with an elevation model first",
        )
    if own is None and input_crs is None:
        raise RasterError(
            Code.CRS_MISSING,
            "the raster has neither a coordinate reference system nor a geotransform: it has no place on Earth",
        )
    raise RasterError(
        Code.NOT_GEOREFERENCED,
        "the raster has a coordinate reference system but no geotransform or ground control points: "
        "its pixels have no place",
    )


def parsed_crs(text: str) -> CRS:
    """``text`` (checked by :func:`services.raster.parameters.known_crs`) as rasterio knows it.

    Raises:
        RasterError: CRS_INVALID when GDAL does not take it.
    """
    from pyproj import CRS as ProjCRS
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        parsed = ProjCRS.from_user_input(text)
        authority = parsed.to_authority(min_confidence=100)
        return CRS.from_string(":".join(authority)) if authority else CRS.from_wkt(parsed.to_wkt())
    except (CRSError, ValueError) as error:
        raise RasterError(Code.CRS_INVALID, f"{text[:80]!r} is not a coordinate reference system: {error}") from error


def crs_name(crs: CRS | None) -> str | None:
    """``EPSG:32618`` and the like when the CRS has a code, its name otherwise."""
    if crs is None:
        return None
    authority = crs.to_authority()
    if authority:
        return ":".join(authority)
    from pyproj import CRS as ProjCRS
    from pyproj.exceptions import CRSError

    try:
        return str(ProjCRS.from_wkt(crs.to_wkt()).name)
    except CRSError:
        return str(crs.to_wkt())[:80]


def as_json_number(value: float | None) -> Any:
    """A number as JSON and STAC know it: NaN and infinities become the strings ``nan``, ``inf`` and ``-inf``."""
    import math

    if value is None:
        return None
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def has_own_crs(dataset: DatasetReader) -> bool:
    """Whether the raster or its ground control points name a CRS."""
    return bool(dataset.crs) or bool(dataset.gcps[1])
