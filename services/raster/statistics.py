"""Statistics of bands: accumulated window by window, from a bounded sample or from every pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

SAMPLE_PIXELS = 4_000_000
_WINDOW_SIDE = 512
_FEWEST_WINDOWS = 9
_MOST_WINDOWS = 512
_DISTINCT_LIMIT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BandStatistics:
    """Statistics of one band's valid pixels; ``minimum`` to ``stddev`` are None when there are none
    (``mean`` and ``stddev`` also when they are beyond the range of float64).

    ``valid_percent`` is the share of pixels looked at that are neither masked nor NaN nor infinite. ``exact`` says
    whether every pixel was looked at. ``distinct`` is the number of different values seen, or None above 256.
    """

    minimum: float | None
    maximum: float | None
    mean: float | None
    stddev: float | None
    valid_percent: float
    pixels: int
    non_finite: int
    exact: bool
    distinct: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; fields without a value are left out."""
        known = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "mean": self.mean,
            "stddev": self.stddev,
            "valid_percent": round(self.valid_percent, 4),
        }
        return {name: value for name, value in known.items() if value is not None}


class Accumulator:
    """Running statistics of one band; means and variances are merged by Chan's parallel formula."""

    def __init__(self) -> None:
        self.pixels = 0
        self.non_finite = 0
        self._valid = 0
        self._minimum = math.inf
        self._maximum = -math.inf
        self._mean = 0.0
        self._m2 = 0.0
        self._values: set[float] | None = set()

    def add(self, values: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> None:
        """Take in a window: ``values`` and a ``mask`` of the same shape that is True where a pixel is valid."""
        import numpy as np

        self.pixels += values.size
        picked = values[mask]
        if picked.dtype.kind == "f":
            finite = np.isfinite(picked)
            self.non_finite += int(picked.size - np.count_nonzero(finite))
            picked = picked[finite]
        if not picked.size:
            return
        self._minimum = min(self._minimum, float(picked.min()))
        self._maximum = max(self._maximum, float(picked.max()))
        self._note_values(picked)
        count = int(picked.size)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(picked.mean(dtype=np.float64))
            m2 = float(picked.var(dtype=np.float64)) * count
        delta = mean - self._mean
        total = self._valid + count
        self._mean += delta * count / total
        self._m2 += m2 + delta * delta * self._valid * count / total
        self._valid = total

    def _note_values(self, picked: npt.NDArray[Any]) -> None:
        import numpy as np

        if self._values is None or picked.dtype.kind not in "iu":
            self._values = None
            return
        self._values.update(np.unique(picked).tolist())
        if len(self._values) > _DISTINCT_LIMIT:
            self._values = None

    def result(self, *, exact: bool) -> BandStatistics:
        """What was found so far."""
        some = self._valid > 0
        return BandStatistics(
            minimum=_finite(self._minimum) if some else None,
            maximum=_finite(self._maximum) if some else None,
            mean=_finite(self._mean) if some else None,
            stddev=_finite(math.sqrt(self._m2 / self._valid)) if some else None,
            valid_percent=100.0 * self._valid / self.pixels if self.pixels else 0.0,
            pixels=self.pixels,
            non_finite=self.non_finite,
            exact=exact,
            distinct=None if self._values is None else len(self._values),
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def valid_mask(dataset: DatasetReader, band: int, window: Window, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """True where a pixel of ``band`` is valid by nodata, alpha or mask; an alpha band is valid everywhere."""
    import numpy as np
    from rasterio.enums import ColorInterp, MaskFlags

    flags = dataset.mask_flag_enums[band - 1]
    if MaskFlags.all_valid in flags or dataset.colorinterp[band - 1] == ColorInterp.alpha:
        return np.ones(values.shape, dtype=bool)
    return np.asarray(dataset.read_masks(band, window=window)) > 0


def sample_windows(dataset: DatasetReader, budget: int = SAMPLE_PIXELS) -> tuple[list[Window], bool]:
    """Windows to look at, and whether they cover the raster.

    The raster as a whole when it is within ``budget`` pixels (all bands counted); otherwise windows of at most 262,144
    pixels that fit the blocks, spread evenly from the first corner to the last.
    """
    from rasterio.windows import Window

    if dataset.width * dataset.height * dataset.count <= budget:
        return list(_windows(dataset.width, dataset.height)), True
    rows = min(dataset.block_shapes[0][0], _WINDOW_SIDE)
    columns = min(dataset.block_shapes[0][1], _WINDOW_SIDE * _WINDOW_SIDE // rows)
    down, across = -(-dataset.height // rows), -(-dataset.width // columns)
    wanted = min(down * across, max(_FEWEST_WINDOWS, min(_MOST_WINDOWS, budget // (rows * columns * dataset.count))))
    take_down = min(down, max(1, round(math.sqrt(wanted * down / across))))
    take_across = min(across, max(1, wanted // take_down))
    take_down = min(down, max(1, wanted // take_across))
    return [
        Window(
            column * columns,
            row * rows,
            min(columns, dataset.width - column * columns),
            min(rows, dataset.height - row * rows),
        )
        for row in _spread(down, take_down)
        for column in _spread(across, take_across)
    ], False


def _windows(width: int, height: int) -> Iterator[Window]:
    from rasterio.windows import Window

    for top in range(0, height, 2048):
        for left in range(0, width, 2048):
            yield Window(left, top, min(2048, width - left), min(2048, height - top))


def _spread(total: int, count: int) -> list[int]:
    if count >= total:
        return list(range(total))
    return sorted({round(place * (total - 1) / max(1, count - 1)) for place in range(count)})
