"""Proof that a COG is one: its structure by an independent validator, and samples of its pixels.

Blocks are decoded and compared when they are encoded (:mod:`services.raster.encode`); here it is shown that the file
that was put together has each in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.raster.errors import Code, RasterError
from services.raster.gdal import judged_here
from services.raster.statistics import BandStatistics
from services.raster.tile_grid import Box, overview_levels
from services.raster.validation import readable_pixels

if TYPE_CHECKING:
    from services.raster.description import Layout
    from services.raster.pixels import PixelSource

_SAMPLE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CogCheck:
    """The verdict on a COG: exact statistics of its bands, and whether its pixels were compared with the source's."""

    statistics: tuple[BandStatistics, ...]
    overviews: tuple[int, ...]
    pixels_compared: bool
    warnings: tuple[str, ...]


def check_structure(path: Path, layout: Layout, block: int) -> tuple[tuple[int, ...], list[str]]:
    """Check the structure of the COG at ``path``, and that the last block of each level can be decoded.

    Returns the factors of its overviews, of which there must be as many as a raster of that layout in blocks of that
    size has, and the validator's warnings: none, but for a raster of one column, which cannot have overviews.

    Raises:
        RasterError: COG_INVALID, saying what is wrong.
    """
    import rasterio
    from rasterio.windows import Window
    from rio_cogeo.cogeo import cog_validate

    overviews = overview_levels(layout.width, layout.height, block)
    valid, errors, warnings = cog_validate(str(path), strict=layout.width > 1, quiet=True)
    if not valid:
        raise RasterError(
            Code.COG_INVALID, f"the COG did not pass validation: {'; '.join([*errors, *warnings])}", errors=list(errors)
        )
    with judged_here(), rasterio.open(path, driver="GTiff") as cog:
        found = tuple(cog.overviews(1))
        order = cog.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
    if len(found) != overviews or order != "COG":
        raise RasterError(
            Code.COG_INVALID, f"the COG has overviews {found} and layout {order}; {overviews} overviews were made"
        )
    for level in range(-1, overviews):
        wanted = {} if level < 0 else {"OVERVIEW_LEVEL": level}
        with judged_here(), rasterio.open(path, driver="GTiff", **wanted) as image:
            _ = image.crs  # GDAL looks at it late, and may warn
            window = Window(image.width - 1, image.height - 1, 1, 1)
            with readable_pixels(path.name):
                image.read(window=window)
                image.dataset_mask(window=window)
    return found, list(warnings)


def compare_samples(path: Path, pixels: PixelSource) -> None:
    """Compare windows at the corners, the middle and the quarters with the pixels that were encoded.

    Raises:
        RasterError: COG_INVALID, naming the window that differs.
    """
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    layout = pixels.layout
    with judged_here(), rasterio.open(path, driver="GTiff") as cog:
        _ = cog.crs  # GDAL looks at it late, and may warn
        for top in _spread(layout.height):
            for left in _spread(layout.width):
                box = Box(top, left, min(_SAMPLE, layout.height), min(_SAMPLE, layout.width))
                expected = pixels.read(box)
                window = Window(left, top, box.width, box.height)
                with readable_pixels(path.name):
                    values, mask = cog.read(window=window), cog.dataset_mask(window=window) > 0
                same = np.array_equal(values, expected.values, equal_nan=values.dtype.kind == "f")
                same = same and (expected.mask is None or np.array_equal(mask, expected.mask))
                if not same:
                    raise RasterError(
                        Code.COG_INVALID,
                        f"pixels of the COG differ from those encoded in the window of {box.height} x {box.width} "
                        f"pixels at row {top}, column {left}",
                    )


def _spread(length: int) -> list[int]:
    last = max(0, length - _SAMPLE)
    return sorted({0, last // 3, last})
