"""Histograms of bands from a bounded look: what a reader sees of the values' spread without opening the raster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

BUCKETS = 64
_LONG_SIDE = 1024


def histogram(dataset: DatasetReader, number: int) -> dict[str, Any] | None:
    """The histogram of band ``number`` (from 1) as STAC's raster extension has it, or None without valid pixels.

    Pixels are taken as they are (nearest) from the overview that has about 1000 on its long side; masked, NaN and
    infinite ones are left out. ``min`` and ``max`` are those of the pixels looked at; buckets are of equal width.
    Source: https://github.com/stac-extensions/raster#histogram-object
    """
    import numpy as np
    from rasterio.enums import Resampling

    scale = min(1.0, _LONG_SIDE / max(dataset.height, dataset.width))
    shape = max(1, round(dataset.height * scale)), max(1, round(dataset.width * scale))
    values = dataset.read(number, out_shape=shape, resampling=Resampling.nearest)
    valid = dataset.read_masks(number, out_shape=shape, resampling=Resampling.nearest) > 0
    seen = values[valid & np.isfinite(values)].astype(np.float64)
    if not len(seen):
        return None
    low, high = float(seen.min()), float(seen.max())
    span = high - low
    if not np.isfinite(span) or span / BUCKETS == 0.0:
        return {"count": 1, "min": low, "max": high, "buckets": [len(seen)]}
    counts, _ = np.histogram(seen, bins=BUCKETS, range=(low, high))
    return {"count": BUCKETS, "min": low, "max": high, "buckets": counts.tolist()}
