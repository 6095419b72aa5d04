"""Proof that a COG is one: its structure by an independent validator, and every block of every level decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.raster.errors import Code, RasterError
from services.raster.gdal import MIB, judged_here
from services.raster.statistics import Accumulator, BandStatistics
from services.raster.validation import readable_pixels
from services.raster.watch import Watch

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

_WINDOW_BYTES = 32 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class CogCheck:
    """The verdict on a COG: exact statistics of its bands, and whether its pixels were compared with the source's."""

    statistics: tuple[BandStatistics, ...]
    overviews: tuple[int, ...]
    pixels_compared: bool
    warnings: tuple[str, ...]


def check_cog(path: Path, watch: Watch, *, source: DatasetReader | None) -> CogCheck:
    """Check the COG at ``path``; its pixels and mask must equal those of ``source`` when that is given.

    Raises:
        RasterError: COG_INVALID, saying what is wrong.
        StopRequested: when the task was asked to stop.
    """
    import rasterio

    warnings = _structure(path)
    with judged_here(), rasterio.open(path, driver="GTiff") as cog:
        overviews = tuple(cog.overviews(1))
        statistics = _pixels(cog, watch, source)
    for level in range(len(overviews)):
        with (
            judged_here(),
            rasterio.open(path, driver="GTiff", OVERVIEW_LEVEL=level) as overview,
            readable_pixels(path.name),
        ):
            for window in windows_of(overview):
                overview.read(window=window)
                overview.dataset_mask(window=window)
                watch.check()
    return CogCheck(
        statistics=statistics, overviews=overviews, pixels_compared=source is not None, warnings=tuple(warnings)
    )


def _structure(path: Path) -> list[str]:
    from rio_cogeo.cogeo import cog_validate

    valid, errors, warnings = cog_validate(str(path), strict=True, quiet=True)
    if not valid:
        raise RasterError(
            Code.COG_INVALID, f"the COG did not pass validation: {'; '.join([*errors, *warnings])}", errors=list(errors)
        )
    return list(warnings)


def _pixels(cog: DatasetReader, watch: Watch, source: DatasetReader | None) -> tuple[BandStatistics, ...]:
    import numpy as np

    accumulators = [Accumulator() for _ in cog.indexes]
    with readable_pixels(Path(cog.name).name):
        for window in windows_of(cog):
            values = cog.read(window=window)
            masks = cog.read_masks(window=window) > 0
            if source is not None:
                expected = source.read(window=window)
                same = np.array_equal(values, expected, equal_nan=values.dtype.kind == "f")
                if not same or not np.array_equal(masks, source.read_masks(window=window) > 0):
                    raise RasterError(
                        Code.COG_INVALID, f"pixels of the COG differ from the source's in the window {_place(window)}"
                    )
            for band, accumulator in enumerate(accumulators):
                alpha = cog.colorinterp[band].name == "alpha"
                accumulator.add(values[band], np.ones_like(masks[band]) if alpha else masks[band])
            watch.advance(int(window.width) * int(window.height), "checking the COG")
    return tuple(accumulator.result(exact=True) for accumulator in accumulators)


def windows_of(dataset: DatasetReader) -> Iterator[Window]:
    """Windows that cover a raster, whole blocks each and about 32 MiB with all bands."""
    import numpy as np
    from rasterio.windows import Window

    rows, columns = dataset.block_shapes[0]
    pixel_bytes = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
    side = math.sqrt(_WINDOW_BYTES / pixel_bytes)
    if columns >= dataset.width:
        height = max(rows, int(side * side / dataset.width) // rows * rows)
        width = dataset.width
    else:
        height = max(rows, int(side) // rows * rows)
        width = max(columns, int(side) // columns * columns)
    for top in range(0, dataset.height, height):
        for left in range(0, dataset.width, width):
            yield Window(left, top, min(width, dataset.width - left), min(height, dataset.height - top))


def _place(window: Any) -> str:
    (top, bottom), (left, right) = window.toranges()
    return f"rows {top}-{bottom}, columns {left}-{right}"
