"""A raster band as points on the Earth: which pixels a box of longitudes and latitudes can hold, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.errors import PermanentError
from services.h3.area import EQUATOR_KM, equal_area

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.io import DatasetReader

Floats = NDArray[np.float64]

_SLACK = 2  # pixels: boxes are transformed by their edges, which may bend outwards between the points that are followed
_EDGE_POINTS = 64


@dataclass(frozen=True, slots=True)
class Window:
    """Rows and columns of a raster, ends excluded."""

    row: int
    row_end: int
    column: int
    column_end: int

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return (self.row_end - self.row) * (self.column_end - self.column)

    def meets(self, other: Window) -> bool:
        """Whether the two share a pixel."""
        return (
            self.row < other.row_end
            and other.row < self.row_end
            and self.column < other.column_end
            and other.column < self.column_end
        )

    def joined(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(
            min(self.row, other.row),
            max(self.row_end, other.row_end),
            min(self.column, other.column),
            max(self.column_end, other.column_end),
        )

    def strips(self, most_pixels: int) -> Iterator[Window]:
        """Cut into runs of whole rows of at most so many pixels (one row at least)."""
        rows = max(1, most_pixels // max(1, self.column_end - self.column))
        for row in range(self.row, self.row_end, rows):
            yield Window(row, min(row + rows, self.row_end), self.column, self.column_end)


class RasterBand:
    """One band of an open dataset.

    Raises:
        PermanentError: BAND_UNKNOWN, CRS_MISSING, NOT_GEOREFERENCED or UNSUPPORTED_DTYPE.
    """

    def __init__(self, dataset: DatasetReader, band: int) -> None:
        from pyproj import CRS, Transformer

        _check(dataset, band)
        self._dataset, self._band = dataset, band
        self._transform = dataset.transform
        crs = CRS.from_wkt(dataset.crs.to_wkt())
        self.geographic = bool(crs.is_geographic)
        self._to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
        self._from_degrees = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)

    @property
    def categorical(self) -> bool:
        """Whether the values are whole numbers."""
        return np.issubdtype(np.dtype(self._dataset.dtypes[self._band - 1]), np.integer)

    def windows(self, west: float, south: float, east: float, north: float) -> list[Window]:
        """Windows that share no pixel and hold every pixel whose centre may lie in a box (degrees, west <= east)."""
        found = []
        # A raster may count its longitudes from -180 or from 0 degrees.
        for turn in (-360.0, 0.0, 360.0) if self.geographic else (0.0,):
            window = self._window(west + turn, south, east + turn, north)
            if window is not None:
                found.append(window)
        return apart(found)

    def _window(self, west: float, south: float, east: float, north: float) -> Window | None:
        x, y = self._outline(west, south, east, north)
        kept = np.isfinite(x) & np.isfinite(y)
        if not kept.any():
            return None
        height, width = self._dataset.height, self._dataset.width
        if not kept.all():  # part of the box has no place in this projection
            return Window(0, height, 0, width)
        columns, rows = applied(~self._transform, x[kept], y[kept])
        window = Window(
            max(0, int(np.floor(rows.min())) - _SLACK),
            min(height, int(np.ceil(rows.max())) + _SLACK),
            max(0, int(np.floor(columns.min())) - _SLACK),
            min(width, int(np.ceil(columns.max())) + _SLACK),
        )
        return window if window.row < window.row_end and window.column < window.column_end else None

    def _outline(self, west: float, south: float, east: float, north: float) -> tuple[Floats, Floats]:
        """Points over the whole box, in the raster's coordinates: a pole within it has no place on its edges."""
        longitudes, latitudes = np.meshgrid(
            np.linspace(west, east, _EDGE_POINTS), np.linspace(south, north, _EDGE_POINTS)
        )
        if self.geographic:
            return longitudes.ravel(), latitudes.ravel()
        x, y = self._from_degrees.transform(longitudes.ravel(), latitudes.ravel())
        return np.asarray(x), np.asarray(y)

    def read(self, window: Window) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
        """Longitudes, latitudes and values of a window's pixels, flat, and which of them are valid.

        A pixel is valid when the dataset's mask says so (nodata, alpha, mask band) and its value is finite.
        """
        from rasterio.windows import Window as RasterioWindow

        place = RasterioWindow.from_slices((window.row, window.row_end), (window.column, window.column_end))
        values = self._dataset.read(self._band, window=place).astype(np.float64).ravel()
        valid = (self._dataset.read_masks(self._band, window=place) != 0).ravel() & np.isfinite(values)
        columns, rows = np.meshgrid(
            np.arange(window.column, window.column_end) + 0.5, np.arange(window.row, window.row_end) + 0.5
        )
        x, y = applied(self._transform, columns.ravel(), rows.ravel())
        longitudes, latitudes = self.degrees(x, y)
        valid &= np.isfinite(longitudes) & np.isfinite(latitudes) & (np.abs(latitudes) <= 90.0)
        return longitudes, latitudes, values, valid

    def degrees(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Coordinates of the raster as longitude (-180 to 180) and latitude; infinite where they have none."""
        longitudes, latitudes = self._to_degrees.transform(x, y)
        longitudes = np.asarray(longitudes, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            longitudes = np.where(np.abs(longitudes) > 180.0, (longitudes + 180.0) % 360.0 - 180.0, longitudes)
        return longitudes, np.asarray(latitudes, dtype=np.float64)

    def sample(self, longitudes: Floats, latitudes: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The row and column of the pixel that each point lies in, -1 where it lies in none."""
        rows = np.full(len(longitudes), -1, dtype=np.intp)
        columns = np.full(len(longitudes), -1, dtype=np.intp)
        for turn in (0.0, -360.0, 360.0) if self.geographic else (0.0,):
            x, y = self._from_degrees.transform(longitudes, latitudes)
            found_columns, found_rows = applied(~self._transform, np.asarray(x) + turn, np.asarray(y))
            with np.errstate(invalid="ignore"):
                inside = (
                    (found_columns >= 0)
                    & (found_columns < self._dataset.width)
                    & (found_rows >= 0)
                    & (found_rows < self._dataset.height)
                    & (rows < 0)
                )
            rows[inside] = np.floor(found_rows[inside]).astype(np.intp)
            columns[inside] = np.floor(found_columns[inside]).astype(np.intp)
        return rows, columns

    def areas(self, window: Window) -> Floats:
        """The area on the ellipsoid, square metres, of each pixel of a window, flat.

        From the four corners, joined by straight lines in longitude and latitude. A pixel that holds a pole, which has
        no such corners, is given the median of the others.
        """
        columns, rows = np.meshgrid(
            np.arange(window.column, window.column_end + 1, dtype=np.float64),
            np.arange(window.row, window.row_end + 1, dtype=np.float64),
        )
        longitudes, latitudes = self.degrees(*applied(self._transform, columns.ravel(), rows.ravel()))
        x, y = equal_area(np.column_stack([longitudes, latitudes])).T.reshape(2, *columns.shape)
        corners = [(slice(None, -1), slice(None, -1)), (slice(None, -1), slice(1, None))]
        corners += [(slice(1, None), slice(1, None)), (slice(1, None), slice(None, -1))]
        turn = 2 * np.pi * EQUATOR_KM
        first = x[corners[0]]
        xs = [x[corner] - turn * np.round((x[corner] - first) / turn) for corner in corners]
        ys = [y[corner] for corner in corners]
        doubled = sum(xs[at - 1] * ys[at] - xs[at] * ys[at - 1] for at in range(4))
        found: NDArray[np.float64] = np.abs(np.asarray(doubled)).ravel() / 2 * 1e6
        with np.errstate(invalid="ignore"):
            polar = (np.max(xs, axis=0) - np.min(xs, axis=0)).ravel() > turn / 4
        found[polar] = np.median(found[~polar]) if not polar.all() else np.nan
        return found

    def pixel_area(self) -> float:
        """The area of the pixel in the middle of the raster, square metres."""
        row, column = self._dataset.height // 2, self._dataset.width // 2
        return float(self.areas(Window(row, row + 1, column, column + 1))[0])


def applied(transform: Affine, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Points moved by an affine transform."""
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def apart(windows: list[Window]) -> list[Window]:
    """The same pixels in windows that share none, and perhaps some more."""
    found: list[Window] = []
    for window in windows:
        joined = window
        while (other := next((known for known in found if known.meets(joined)), None)) is not None:
            found.remove(other)
            joined = joined.joined(other)
        found.append(joined)
    return found


def _check(dataset: DatasetReader, band: int) -> None:
    if band > dataset.count:
        raise PermanentError(
            f"band: the raster has {dataset.count} bands, band {band} was asked for",
            code="BAND_UNKNOWN",
            details={"given": band, "bands": dataset.count},
        )
    if dataset.crs is None:
        raise PermanentError("source_url: the raster names no coordinate reference system", code="CRS_MISSING")
    if dataset.transform.is_identity:
        raise PermanentError("source_url: the raster is not georeferenced", code="NOT_GEOREFERENCED")
    if "complex" in dataset.dtypes[band - 1]:
        raise PermanentError("band: complex values have no order", code="UNSUPPORTED_DTYPE")
