"""Thumbnails: a PNG that shows what a raster is, stretched as its kind asks for."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.raster import colours
from services.raster.parameters import RasterType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rasterio.io import DatasetReader

    Bytes = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

LONG_SIDE = 512
_SMALL = 128
_DARK = 64
_EFFORT = 4  # of zlib: no larger a file than with its usual 6, in a third of the time


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A PNG file's ``content`` and its size in pixels."""

    content: bytes
    width: int
    height: int


def render(dataset: DatasetReader, raster_type: RasterType) -> Thumbnail:
    """A thumbnail of ``dataset``, at most 512 pixels on its long side, north up, transparent where there is no data.

    Call it inside :func:`services.raster.gdal.gdal_environment`. Overviews are used when there are any.
    """
    import numpy as np
    from PIL import Image

    height, width = _size(dataset)
    painted = _paint(dataset, raster_type, (height, width))
    if not (dataset.transform.b or dataset.transform.d):
        painted = painted[:: -1 if dataset.transform.e > 0 else 1, :: -1 if dataset.transform.a < 0 else 1]
    factor = max(1, _SMALL // max(height, width))
    image = Image.fromarray(np.ascontiguousarray(np.kron(painted, np.ones((factor, factor, 1), dtype=np.uint8))))
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=_EFFORT)
    return Thumbnail(file.getvalue(), image.width, image.height)


def _size(dataset: DatasetReader) -> tuple[int, int]:
    """(height, width) that keep the raster's shape on the ground, within the long side and the raster's own pixels."""
    transform = dataset.transform
    across = dataset.width * math.hypot(transform.a, transform.d)
    down = dataset.height * math.hypot(transform.b, transform.e)
    if not (across > 0 and down > 0 and math.isfinite(across) and math.isfinite(down)):
        across, down = dataset.width, dataset.height
    long_side = min(LONG_SIDE, max(dataset.width, dataset.height))
    scale = long_side / max(across, down)
    return max(1, round(down * scale)), max(1, round(across * scale))


def _paint(dataset: DatasetReader, raster_type: RasterType, shape: tuple[int, int]) -> Bytes:
    match raster_type:
        case RasterType.CATEGORICAL:
            return _categories(dataset, shape)
        case RasterType.DEM:
            return _terrain(dataset, shape)
        case RasterType.SINGLE_BAND:
            return _grey(dataset, shape)
        case RasterType.RGB | RasterType.RGBA | RasterType.NIR | RasterType.MULTISPECTRAL:
            bands = _colour_bands(dataset)
            return _grey(dataset, shape) if bands is None else _colour(dataset, bands, shape)


def _categories(dataset: DatasetReader, shape: tuple[int, int]) -> Bytes:
    import numpy as np
    from rasterio.enums import ColorInterp, Resampling

    values = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    valid = _valid(dataset, shape)
    if dataset.colorinterp[0] == ColorInterp.palette:
        table = np.zeros((65536, 4), dtype=np.uint8)
        for value, colour in dataset.colormap(1).items():
            table[value] = colour
        painted: Bytes = table[np.clip(values, 0, 65535)]
        painted[..., 3] = np.where(valid, painted[..., 3], 0)
        return painted
    _, index = np.unique(values, return_inverse=True)
    palette = np.array(colours.QUALITATIVE, dtype=np.uint8)
    return _with_alpha(palette[index.reshape(shape) % len(palette)], valid)


def _terrain(dataset: DatasetReader, shape: tuple[int, int]) -> Bytes:
    import numpy as np

    heights, valid = _band(dataset, 1, shape)
    if not valid.any():
        return _with_alpha(np.zeros((*shape, 3), dtype=np.uint8), valid)
    stretched = _stretched(heights, valid)
    ramp = np.array(colours.HYPSOMETRIC, dtype=np.float64)
    steps = np.linspace(0.0, 1.0, len(ramp))
    tint = np.stack([np.interp(stretched, steps, ramp[:, channel]) for channel in range(3)], axis=-1)
    shade = _hillshade(np.where(valid, heights, float(np.median(heights[valid]))))
    return _with_alpha(np.clip(tint * (0.45 + 0.65 * shade[..., None]), 0, 255).astype(np.uint8), valid)


def _hillshade(heights: Floats) -> Floats:
    """Light from the north-west at 45 degrees, 0 to 1 (Lambert's cosine law; slopes relative to the steepest tenth)."""
    import numpy as np

    if min(heights.shape) < 2:
        return np.ones_like(heights)
    down, across = np.gradient(heights)
    steepness = np.hypot(across, down)
    typical = float(np.percentile(steepness, 90))
    if typical <= 0:
        return np.full_like(heights, math.sqrt(0.5))
    slope_x, slope_y = across / typical, down / typical
    light = (1.0 + (slope_x + slope_y) * math.sqrt(0.5)) / np.sqrt(1.0 + slope_x**2 + slope_y**2) * math.sqrt(0.5)
    return np.asarray(np.clip(light, 0.0, 1.0), dtype=np.float64)


def _grey(dataset: DatasetReader, shape: tuple[int, int]) -> Bytes:
    import numpy as np

    values, valid = _band(dataset, 1, shape)
    grey = np.asarray(_stretched(values, valid) * 255, dtype=np.uint8)
    return _with_alpha(np.repeat(grey[..., None], 3, axis=-1), valid)


def _colour(dataset: DatasetReader, bands: tuple[int, int, int], shape: tuple[int, int]) -> Bytes:
    import numpy as np

    read = [_band(dataset, band, shape) for band in bands]
    together = _valid(dataset, shape)
    usable = [valid & together for _, valid in read]
    shown = usable[0] | usable[1] | usable[2]
    if dataset.dtypes[0] == "uint8" and _is_bright([values for values, _ in read], shown):
        channels = [values for values, _ in read]
    else:
        channels = [_stretched(values, shown & valid) * 255 for (values, valid) in read]
    painted = np.stack([np.clip(np.nan_to_num(channel), 0, 255) for channel in channels], axis=-1).astype(np.uint8)
    return _with_alpha(painted, shown)


def _is_bright(channels: list[Floats], shown: Mask) -> bool:
    import numpy as np

    return bool(shown.any()) and max(float(np.percentile(channel[shown], 98)) for channel in channels) >= _DARK


def _colour_bands(dataset: DatasetReader) -> tuple[int, int, int] | None:
    """The bands to show as red, green and blue: as marked or named, else the first three."""
    from rasterio.enums import ColorInterp

    marked = {interp: band for band, interp in zip(dataset.indexes, dataset.colorinterp, strict=True)}
    named = {
        (text or "").strip().lower(): band for band, text in zip(dataset.indexes, dataset.descriptions, strict=True)
    }
    found: list[int] = []
    for interp, name in ((ColorInterp.red, "red"), (ColorInterp.green, "green"), (ColorInterp.blue, "blue")):
        band = marked.get(interp) or named.get(name)
        if band is not None:
            found.append(band)
    if len(found) == 3:
        return found[0], found[1], found[2]
    data = [band for band in dataset.indexes if dataset.colorinterp[band - 1] != ColorInterp.alpha]
    return (data[0], data[1], data[2]) if len(data) >= 3 else None


def _band(dataset: DatasetReader, band: int, shape: tuple[int, int]) -> tuple[Floats, Mask]:
    """A band at thumbnail size as float64, and where it is valid and finite."""
    import numpy as np
    from rasterio.enums import Resampling

    values = dataset.read(band, out_shape=shape, resampling=Resampling.average, masked=False).astype(np.float64)
    valid = dataset.read_masks(band, out_shape=shape, resampling=Resampling.nearest) > 0
    return values, valid & np.isfinite(values)


def _valid(dataset: DatasetReader, shape: tuple[int, int]) -> Mask:
    import numpy as np
    from rasterio.enums import Resampling

    return np.asarray(dataset.dataset_mask(out_shape=shape, resampling=Resampling.nearest)) > 0


def _stretched(values: Floats, valid: Mask) -> Floats:
    """``values`` from their 2nd to 98th percentile as 0 to 1; everything mid-grey when there is no spread."""
    import numpy as np

    if not valid.any():
        return np.zeros_like(values)
    low, high = np.percentile(values[valid], (2, 98))
    if high <= low:
        low, high = float(values[valid].min()), float(values[valid].max())
    if high <= low:
        return np.full_like(values, 0.5)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(np.where(valid, scaled, 0.0), dtype=np.float64)


def _with_alpha(painted: Any, valid: Mask) -> Bytes:
    import numpy as np

    alpha = np.where(valid, 255, 0).astype(np.uint8)
    return np.dstack([painted, alpha])
