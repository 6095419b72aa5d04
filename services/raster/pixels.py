"""Where the pixels of an output come from: read as they are, or warped; any window of them, from any thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from services.raster.budget import Budget
from services.raster.cog_options import CogOptions
from services.raster.description import Layout
from services.raster.errors import Code, RasterError
from services.raster.footprint import crosses_antimeridian
from services.raster.gdal import MIB, gdal_errors
from services.raster.grid import Grid, grid_for, shown_share
from services.raster.nodata import is_extreme, keep_off
from services.raster.parameters import Resampling
from services.raster.places import LocalPlaces, Part, can_be_placed_by_polynomials
from services.raster.profile import Georeferencing, Profile, crs_name, parsed_crs
from services.raster.source import MAX_DECLARED_BYTES
from services.raster.tile_grid import Box
from services.raster.validation import readable_pixels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    Values = npt.NDArray[Any]
    Mask = npt.NDArray[np.bool_]

T = TypeVar("T")

_WITHIN_VALUES = frozenset({Resampling.NEAREST, Resampling.MODE, Resampling.BILINEAR, Resampling.AVERAGE})
"""Kernels that give nothing beyond the values that they are given."""

_TOLERANCE = 1e-6
_TOLERANCE_OF_BYTES = 1e-5
"""Pixels of the source by which a place may be off where GDAL interpolates along rows: a value in a hundred thousand
changes by one, and bytes are had in two thirds of the time. GDAL's own default, 0.125, changes one in fifty."""

_OF_POLYNOMIALS = 0.1
"""The share of it that is allowed to polynomials, which are off over wider areas."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """``values`` (band, row, column), and where they are valid by the output's mask; None when it has none."""

    values: Values
    mask: Mask | None

    def part(self, box: Box) -> Pixels:
        """A window of these pixels."""
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        return Pixels(self.values[:, rows, columns], None if self.mask is None else self.mask[rows, columns])


class PixelSource(Protocol):
    """Pixels on a grid. ``read`` may be called from several threads at once."""

    @property
    def layout(self) -> Layout: ...

    def read(self, box: Box) -> Pixels: ...

    def close(self) -> None: ...


def crs_to_warp_to(profile: Profile, target_crs: str | None) -> CRS | None:
    """The CRS that pixels must be warped to, or None where they stay as they are."""
    target = None if target_crs is None else parsed_crs(target_crs)
    if profile.georeferencing is Georeferencing.GCPS:
        return target or profile.crs
    return None if target is None or target == profile.crs else target


def pixels_of(
    source: DatasetReader, profile: Profile, options: CogOptions, target: CRS | None, budget: Budget
) -> PixelSource:
    """The pixels of an open raster, as they are to be encoded.

    Raises:
        RasterError: CRS_NOT_TRANSFORMABLE, or DECLARED_SIZE_TOO_LARGE when the warped raster would be.
    """
    if target is not None:
        return WarpedPixels(source, profile, options, target, budget)
    return PlainPixels(source, profile, options)


class _PerThread:
    """One thing for each thread that asks, made when it first asks; all closed together."""

    def __init__(self, make: Callable[[ExitStack], T]) -> None:
        self._make = make
        self._local = threading.local()
        self._lock = threading.Lock()
        self._stacks: list[ExitStack] = []

    def get(self) -> Any:
        if not hasattr(self._local, "value"):
            stack = ExitStack()
            with self._lock:
                self._stacks.append(stack)
            self._local.value = self._make(stack)
        return self._local.value

    def close(self) -> None:
        with self._lock:
            stacks, self._stacks = self._stacks, []
        for stack in stacks:
            stack.close()
        self._local = threading.local()


def _reopened(source: DatasetReader) -> Callable[[ExitStack], DatasetReader]:
    """How to open the same file again: datasets must not be shared between threads."""
    path, driver = source.name, source.driver

    def opened(stack: ExitStack) -> DatasetReader:
        import rasterio

        dataset = stack.enter_context(rasterio.open(path, driver=driver))
        _ = dataset.crs  # GDAL looks at it late, and may warn
        return dataset

    return opened


@dataclass(frozen=True, slots=True)
class _Bands:
    """Which bands of the source become bands of the output, and where their mask comes from."""

    numbers: list[int]
    masked: bool
    nodata: float | None
    alpha: int | None


def _bands(profile: Profile, options: CogOptions) -> _Bands:
    """Lossy codecs keep no nodata value and no alpha: those become a mask, which stays exact."""
    alphas = [number for number, interp in enumerate(profile.colorinterp) if interp == "alpha"]
    nodata = profile.nodata[0]
    numbers = list(range(1, profile.count + 1))
    if options.lossless:
        return _Bands(numbers, profile.has_dataset_mask, nodata, alphas[0] if alphas else None)
    if alphas:
        return _Bands([number for number in numbers if number - 1 not in alphas], True, None, None)
    return _Bands(numbers, profile.has_dataset_mask or nodata is not None, None, None)


class PlainPixels:
    """A raster's own pixels."""

    def __init__(self, source: DatasetReader, profile: Profile, options: CogOptions) -> None:
        self.bands = _bands(profile, options)
        self.layout = Layout(
            width=profile.width,
            height=profile.height,
            count=len(self.bands.numbers),
            dtype=profile.dtype,
            crs=profile.crs,
            transform=profile.transform,
            nodata=self.bands.nodata,
            masked=self.bands.masked,
            alpha=self.bands.alpha,
        )
        self._name = source.name
        self._datasets = _PerThread(_reopened(source))
        self._slab_rows: int | None = None
        self._slabs: dict[int, Pixels] = {}
        self._slab_lock = threading.Lock()

    def keep_rows(self, rows: int) -> None:
        """Read ``rows`` whole rows at a time and keep them: for files whose blocks are whole rows."""
        self._slab_rows = rows

    def read(self, box: Box) -> Pixels:
        """A window."""
        if self._slab_rows is None:
            return self._read(box)
        first, last = box.top // self._slab_rows, (box.top + box.height - 1) // self._slab_rows
        if first != last:
            return self._read(box)
        with self._slab_lock:
            if first not in self._slabs:
                while len(self._slabs) > 1:
                    del self._slabs[min(self._slabs)]
                top = first * self._slab_rows
                self._slabs[first] = self._read(
                    Box(top, 0, min(self._slab_rows, self.layout.height - top), self.layout.width)
                )
            slab = self._slabs[first]
        return slab.part(Box(box.top - first * self._slab_rows, box.left, box.height, box.width))

    def _read(self, box: Box) -> Pixels:
        from rasterio.windows import Window

        dataset = self._datasets.get()
        window = Window(box.left, box.top, box.width, box.height)
        with readable_pixels(self._name.rpartition("/")[2]):
            values = dataset.read(self.bands.numbers, window=window)
            mask = dataset.dataset_mask(window=window) > 0 if self.layout.masked else None
        return Pixels(values, mask)

    def close(self) -> None:
        """Close every thread's file."""
        self._slabs.clear()
        self._datasets.close()


class WarpedPixels:
    """A raster's pixels in another CRS.

    The destination grid and the scale of the kernel are those of the whole raster (GDAL would take the scale of each
    window), so that a pixel is the same in whichever window it is read, and tiles meet without a seam. What lies
    outside the source becomes nodata; without a nodata value, NaN in rasters of floats and a mask in others.

    The grid is the one that GDAL suggests, the same each time, and is not given back to it but where it must be
    another: rasterio then leaves out ground control points, and the place, by which PROJ chooses a datum shift.

    An alpha band that GDAL adds tells what lies outside, also where the output has a nodata value: told of that, GDAL
    warps by slower kernels even where every pixel is valid, in half as much time again for one band of int16.
    """

    def __init__(
        self, source: DatasetReader, profile: Profile, options: CogOptions, target: CRS, budget: Budget
    ) -> None:
        import rasterio

        self._profile, self._options, self._target, self._budget = profile, options, target, budget
        nodata = profile.nodata[0]
        if nodata is None and profile.dtype.startswith("float") and not (profile.has_alpha or profile.has_dataset_mask):
            nodata = float("nan")
        self._nodata = nodata
        self._alpha_added = not profile.has_alpha and (
            nodata is None or _alpha_tells(nodata, profile, options.resampling)
        )
        self._center_long = target.is_geographic and crosses_antimeridian(profile)
        self._given_grid = grid_for(profile, target)
        self._scales: tuple[float, float] | None = None
        seen = 1.0 if self._given_grid is None else shown_share(profile)
        self._name = source.name
        with ExitStack() as stack:
            view = self._view(source, stack)
            self._bound(view)
            grid = Grid(view.transform, max(1, view.width), max(1, view.height))
            if not (view.width and view.height):  # GDAL suggests no row where less than half of one would do
                self._given_grid = grid
        self._scales = (grid.width / profile.width, grid.height / (profile.height * seen))
        bands = _bands(profile, options)
        lossy_mask = not options.lossless and (nodata is not None or profile.has_alpha)
        self._bands = [*range(1, profile.count + 1)] if options.lossless else bands.numbers
        self.layout = Layout(
            width=grid.width,
            height=grid.height,
            count=len(self._bands),
            dtype=profile.dtype,
            crs=target,
            transform=grid.transform,
            nodata=nodata if options.lossless else None,
            masked=lossy_mask or (nodata is None and self._alpha_added),
            alpha=bands.alpha,
        )
        self._places = self._local_places(source, target)
        reopened = _reopened(source)

        def make(stack: ExitStack) -> DatasetReader:
            if self._center_long:
                stack.enter_context(rasterio.Env(CENTER_LONG=180))
            return self._view(reopened(stack), stack)

        self._views = _PerThread(make)

    def _view(self, source: DatasetReader, stack: ExitStack) -> DatasetReader:
        import rasterio
        from rasterio.enums import Resampling as Kernel
        from rasterio.vrt import WarpedVRT

        grid = self._given_grid
        wanted: dict[str, Any] = {}
        if grid is not None:
            wanted = {"transform": grid.transform, "width": grid.width, "height": grid.height}
        if self._scales is not None:
            wanted |= {"XSCALE": self._scales[0], "YSCALE": self._scales[1]}
        if self._alpha_added and self._nodata is not None:
            wanted["init_dest"] = "1.#QNAN" if math.isnan(self._nodata) else repr(float(self._nodata))
        with ExitStack() as environment:
            if self._center_long:
                environment.enter_context(rasterio.Env(CENTER_LONG=180))
            try:
                return stack.enter_context(
                    WarpedVRT(
                        source,
                        src_crs=self._profile.crs,
                        crs=self._target,
                        resampling=Kernel[self._options.resampling.name.lower()],
                        src_nodata=self._profile.nodata[0],
                        nodata=None if self._alpha_added else self._nodata,
                        add_alpha=self._alpha_added,
                        warp_mem_limit=self._budget.warp,
                        tolerance=self._tolerance,
                        UNIFIED_SRC_NODATA="PARTIAL",
                        num_threads=1,
                        **wanted,
                    )
                )
            except gdal_errors() as error:
                raise RasterError(
                    Code.CRS_NOT_TRANSFORMABLE,
                    f"target_crs: no way from {crs_name(self._profile.crs)} to {crs_name(self._target)}: "
                    f"{error.__cause__ or error}",
                ) from error

    @property
    def _tolerance(self) -> float:
        return _TOLERANCE_OF_BYTES if self._profile.dtype in {"uint8", "int8"} else _TOLERANCE

    def _local_places(self, source: DatasetReader, target: CRS) -> LocalPlaces | None:
        if self._center_long or not can_be_placed_by_polynomials(source, self._profile, target):
            return None
        with ExitStack() as stack:
            view = self._view(source, stack)
            return LocalPlaces.of(
                view, source, self._profile.crs, nodata=self._nodata, tolerance=self._tolerance * _OF_POLYNOMIALS
            )

    def _bound(self, view: DatasetReader) -> None:
        profile = self._profile
        declared = round(view.width * view.height * profile.declared_bytes / (profile.width * profile.height))
        if declared > MAX_DECLARED_BYTES or declared > max(4096 * MIB, 64 * profile.declared_bytes):
            raise RasterError(
                Code.DECLARED_SIZE_TOO_LARGE,
                f"target_crs: the raster would be {view.width} x {view.height} pixels ({declared / 2**30:.0f} GiB) "
                f"there, from {profile.width} x {profile.height}; choose a CRS that fits its place",
                declared_bytes=declared,
            )

    def read(self, box: Box) -> Pixels:
        """A window of the warped raster."""
        cut = [Part(box, None)] if self._places is None else self._places.parts(box)
        with readable_pixels(self._name.rpartition("/")[2]):
            parts = [(part.box, self._placed(part)) for part in cut]
        return parts[0][1] if len(parts) == 1 else _joined(box, parts)

    def _placed(self, part: Part) -> Pixels:
        import rasterio

        if part.document is None:
            return self._pixels(self._views.get(), part.box)
        with rasterio.open(part.document, driver="VRT") as view:
            return self._pixels(view, Box(0, 0, part.box.height, part.box.width))

    def _pixels(self, view: DatasetReader, box: Box) -> Pixels:
        from rasterio.windows import Window

        window = Window(box.left, box.top, box.width, box.height)
        if not self._alpha_added:
            values = view.read(self._bands, window=window)
            mask = view.dataset_mask(window=window) > 0 if self.layout.masked else None
            return Pixels(self._typed(values), mask)
        read = view.read([*self._bands, view.count], window=window)
        values, shown = self._typed(read[:-1]), read[-1] > 0
        if self._nodata is not None and len(values) == 1:
            keep_off(values, shown, self._nodata)
        return Pixels(values, shown if self.layout.masked else None)

    def _typed(self, values: Values) -> Values:
        """Values of the raster's own type: rasterio warps int8 as int16, where kernels may overshoot."""
        import numpy as np

        if values.dtype == self.layout.dtype:
            return values
        limits = np.iinfo(self.layout.dtype)
        return np.clip(values, limits.min, limits.max).astype(self.layout.dtype)

    def close(self) -> None:
        """Close every thread's view."""
        self._views.close()


def _alpha_tells(nodata: float, profile: Profile, resampling: Resampling) -> bool:
    """Whether one alpha for all bands leaves no doubt which pixels are without data, and which were given the nodata
    value by a kernel.
    """
    return profile.count == 1 or (resampling in _WITHIN_VALUES and is_extreme(nodata, profile.dtype))


def _joined(box: Box, parts: Sequence[tuple[Box, Pixels]]) -> Pixels:
    """The pixels of ``box`` out of those of its parts."""
    import numpy as np

    first = parts[0][1]
    values = np.empty((len(first.values), box.height, box.width), first.values.dtype)
    mask = None if first.mask is None else np.empty((box.height, box.width), bool)
    for part, pixels in parts:
        top, left = part.top - box.top, part.left - box.left
        here = slice(top, top + part.height), slice(left, left + part.width)
        values[:, *here] = pixels.values
        if mask is not None:
            mask[here] = pixels.mask
    return Pixels(values, mask)
