"""Pixels written to scratch before encoding: warped, or with nodata turned into a mask.

A warp that is read by the COG driver directly is computed twice, once for the overviews.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.raster.cog_check import windows_of
from services.raster.cog_options import CogOptions
from services.raster.errors import Code, RasterError
from services.raster.footprint import crosses_antimeridian
from services.raster.gdal import MIB, gdal_errors
from services.raster.grid import grid_for
from services.raster.profile import Profile, crs_name
from services.raster.source import MAX_DECLARED_BYTES
from services.raster.validation import readable_pixels
from services.raster.watch import Watch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

    Pixels = npt.NDArray[Any]
    Mask = npt.NDArray[np.uint8]
    Read = Callable[[Window], tuple[Pixels, Mask | None]]

_WARP_MEMORY_MIB = 64
_TOLERANCE = 0.01
STATISTICS_TAGS = "STATISTICS_"


def warp_to(
    source: DatasetReader, profile: Profile, target: CRS, options: CogOptions, *, scratch: Path, watch: Watch
) -> Path:
    """``source`` in the CRS ``target``, as an uncompressed GeoTIFF at ``scratch``.

    What lies outside the source becomes nodata; without a nodata value, NaN in rasters of floats and a mask in others.

    Raises:
        RasterError: CRS_NOT_TRANSFORMABLE, or DECLARED_SIZE_TOO_LARGE when the warped raster would be.
    """
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    nodata = profile.nodata[0]
    if nodata is None and profile.dtype.startswith("float") and not (profile.has_alpha or profile.has_dataset_mask):
        nodata = float("nan")
    masked = nodata is None and not profile.has_alpha
    grid = grid_for(profile, target)
    wanted = {} if grid is None else {"transform": grid.transform, "width": grid.width, "height": grid.height}
    with ExitStack() as stack:
        if target.is_geographic and crosses_antimeridian(profile):
            stack.enter_context(rasterio.Env(CENTER_LONG=180))
        try:
            view = stack.enter_context(
                WarpedVRT(
                    source,
                    src_crs=profile.crs,
                    crs=target,
                    resampling=Resampling[options.resampling.name.lower()],
                    src_nodata=profile.nodata[0],
                    nodata=nodata,
                    add_alpha=masked,
                    warp_mem_limit=_WARP_MEMORY_MIB,
                    tolerance=_TOLERANCE,
                    num_threads=options.threads,
                    **wanted,
                )
            )
        except gdal_errors() as error:
            raise RasterError(
                Code.CRS_NOT_TRANSFORMABLE,
                f"target_crs: no way from {crs_name(profile.crs)} to {crs_name(target)}: {error.__cause__ or error}",
            ) from error
        _bound(view, profile)

        def read(window: Window) -> tuple[Pixels, Mask | None]:
            pixels = view.read(window=window)
            return (pixels[:-1], pixels[-1]) if masked else (pixels, None)

        shape = {"width": view.width, "height": view.height, "crs": target, "transform": view.transform}
        return _write(read, view, source, scratch, watch, message="warping", **shape, nodata=nodata)


def nodata_to_mask(source: DatasetReader, scratch: Path, watch: Watch) -> Path:
    """``source`` with its nodata as a mask, an uncompressed GeoTIFF at ``scratch``: lossy codecs keep masks exact."""

    def read(window: Window) -> tuple[Pixels, Mask | None]:
        return source.read(window=window), source.dataset_mask(window=window)

    shape = {"width": source.width, "height": source.height, "crs": source.crs, "transform": source.transform}
    return _write(read, source, source, scratch, watch, message="making a mask", **shape, nodata=None)


def _write(
    read: Read, view: DatasetReader, source: DatasetReader, scratch: Path, watch: Watch, *, message: str, **shape: Any
) -> Path:
    import numpy as np
    import rasterio

    layout = {
        "driver": "GTiff",
        "count": source.count,
        "dtype": source.dtypes[0],
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "bigtiff": "IF_SAFER",
        "interleave": "pixel",
    }
    with rasterio.open(scratch, "w", **layout, **shape) as written, readable_pixels(Path(source.name).name):
        _describe(written, source)
        for window in windows_of(view):
            pixels, mask = read(window)
            written.write(pixels, window=window)
            if mask is not None:
                written.write_mask(np.where(mask > 0, 255, 0).astype(np.uint8), window=window)
            watch.advance(int(window.width) * int(window.height), message)
    return scratch


def _describe(written: Any, source: DatasetReader) -> None:
    """Carry over what is no pixel: colours, tags, names, units, scales. Statistics are not: the pixels change."""
    from rasterio.enums import ColorInterp

    written.colorinterp = source.colorinterp
    written.update_tags(**_lasting(source.tags()))
    for band in source.indexes:
        written.update_tags(band, **_lasting(source.tags(band)))
        if source.descriptions[band - 1]:
            written.set_band_description(band, source.descriptions[band - 1])
        if source.units[band - 1]:
            written.set_band_unit(band, source.units[band - 1])
        if source.colorinterp[band - 1] == ColorInterp.palette:
            written.write_colormap(band, source.colormap(band))
    if any(scale != 1.0 for scale in source.scales) or any(source.offsets):
        written.scales, written.offsets = source.scales, source.offsets


def _lasting(tags: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in tags.items() if not name.startswith(STATISTICS_TAGS)}


def _bound(view: Any, profile: Profile) -> None:
    pixel_bytes = profile.declared_bytes / (profile.width * profile.height)
    declared = round(view.width * view.height * pixel_bytes)
    if declared > MAX_DECLARED_BYTES or declared > max(4096 * MIB, 64 * profile.declared_bytes):
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"target_crs: the raster would be {view.width} x {view.height} pixels ({declared / 2**30:.0f} GiB) there, "
            f"from {profile.width} x {profile.height}; choose a CRS that fits its place",
            declared_bytes=declared,
        )
