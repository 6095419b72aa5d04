"""Exact statistics and a histogram of a band, gathered tile by tile in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.raster.statistics import BandStatistics

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BUCKETS = 256
_FINE_BITS = 12
_FINEST = -1000
_CHUNK = 1 << 20
_KEPT = ("pixels", "non_finite", "valid", "shift", "whole", "mean", "m2")


@dataclass(slots=True)
class Tally:
    """Counts of one band's valid pixels in bins of width 2**``shift``, and their moments.

    Bins of two tallies lie on one another once the finer ones are joined in pairs: merging loses nothing but
    fineness, and at least 4096 bins span the values of each tile. Whole numbers of up to 16 bits have bins of 1
    (``whole``): their moments follow from the counts, the same in whatever order tiles come.
    """

    pixels: int = 0
    non_finite: int = 0
    valid: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    m2: float = 0.0
    shift: int = 0
    whole: bool = False
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> None:
        """Take in ``values``; ``valid`` (None: all) says which count."""
        import numpy as np

        self.pixels += values.size
        if valid is not None and valid.all():
            valid = None
        if values.dtype == np.uint8:
            self.merge(_of_bytes(values, valid))
            return
        picked = values.ravel() if valid is None else values[valid]
        if picked.dtype.kind == "f":
            finite = np.isfinite(picked)
            if not finite.all():
                self.non_finite += int(picked.size - np.count_nonzero(finite))
                picked = picked[finite]
        if not picked.size:
            return
        small = picked.dtype.kind in "iu" and picked.dtype.itemsize <= 2
        self.merge(_of_small(picked) if small else _of_large(picked))

    def merge(self, other: Tally) -> None:
        """Take in what another tally has counted; moments by Chan's parallel formula."""
        self.pixels += other.pixels
        self.non_finite += other.non_finite
        if not other.valid:
            return
        if not self.valid:
            self.shift, self.whole = other.shift, other.whole
        shift = max(self.shift, other.shift)
        mine, theirs = _joined(self.counts, shift - self.shift), _joined(other.counts, shift - other.shift)
        for bin_, count in theirs.items():
            mine[bin_] = mine.get(bin_, 0) + count
        self.counts, self.shift, self.whole = mine, shift, self.whole and other.whole
        total = self.valid + other.valid
        delta = other.mean - self.mean
        self.mean += delta * other.valid / total
        self.m2 += other.m2 + delta * delta * self.valid * other.valid / total
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self.valid = total

    def result(self) -> BandStatistics:
        """The statistics."""
        some = self.valid > 0
        mean, stddev = self._moments() if some else (None, None)
        return BandStatistics(
            minimum=_finite(self.minimum) if some else None,
            maximum=_finite(self.maximum) if some else None,
            mean=mean,
            stddev=stddev,
            valid_percent=100.0 * self.valid / self.pixels if self.pixels else 0.0,
            pixels=self.pixels,
            non_finite=self.non_finite,
            exact=True,
        )

    def _moments(self) -> tuple[float | None, float | None]:
        if self.whole:
            total = sum(value * count for value, count in self.counts.items())
            squares = sum(value * value * count for value, count in self.counts.items())
            return total / self.valid, math.sqrt(self.valid * squares - total * total) / self.valid
        return _finite(self.mean), math.sqrt(max(0.0, self.m2) / self.valid) if math.isfinite(self.m2) else None

    def histogram(self) -> dict[str, Any] | None:
        """At most 256 buckets as STAC's raster extension has them: the first is centred on the minimum, the last on the
        maximum. None without a valid pixel, or where the values are too far apart for numbers to say.
        """
        if not self.valid:
            return None
        low, high = self.minimum, self.maximum
        span = high - low
        if not math.isfinite(span) or sum(self.counts.values()) < self.valid:
            return None
        whole = self.shift == 0 and span < BUCKETS
        buckets = [0] * (int(span) + 1 if whole else BUCKETS if span > 0 else 1)
        width = 2.0**self.shift
        for bin_, count in self.counts.items():
            centre = bin_ * width if self.shift == 0 else (bin_ + 0.5) * width
            place = round((centre - low) / span * (len(buckets) - 1)) if len(buckets) > 1 else 0
            buckets[min(len(buckets) - 1, max(0, place))] += count
        return {"count": len(buckets), "min": low, "max": high, "buckets": buckets}

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; :meth:`from_dict` reads it."""
        known = {name: getattr(self, name) for name in _KEPT}
        ends = {"minimum": self.minimum, "maximum": self.maximum} if self.valid else {}
        return {**known, **ends, "bins": list(self.counts), "counts": list(self.counts.values())}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tally:
        """The tally that :meth:`as_dict` wrote."""
        rest = {name: value for name, value in data.items() if name not in {"bins", "counts"}}
        return cls(**rest, counts=dict(zip(data["bins"], data["counts"], strict=True)))


def _of_small(picked: npt.NDArray[Any]) -> Tally:
    """Whole numbers of 16 bits, or 8 with a sign: everything follows from how often each occurs.

    They are counted by their bits: half of those with a sign come after the others there.
    """
    import numpy as np

    bits = picked.view(f"u{picked.dtype.itemsize}")
    values = 1 << 8 * picked.dtype.itemsize
    counted = np.zeros(values, dtype=np.int64)
    for start in range(0, bits.size, _CHUNK):
        counted += np.bincount(bits[start : start + _CHUNK], minlength=values)
    low = int(np.iinfo(picked.dtype).min)
    counted = np.roll(counted, -low)
    first, last = np.flatnonzero(counted)[[0, -1]].tolist()
    return _counted(low + first, counted[first : last + 1])


def _counted(low: int, counted: npt.NDArray[np.int64]) -> Tally:
    """The tally of whole numbers from ``low`` on, of how often each occurs."""
    import numpy as np

    count = int(counted.sum())
    if not count:
        return Tally()
    values = np.arange(low, low + len(counted), dtype=np.float64)
    mean = float((values * counted).sum()) / count
    m2 = float((counted * (values - mean) ** 2).sum())
    seen = np.flatnonzero(counted)
    return Tally(
        valid=count,
        minimum=int(seen[0]) + low,
        maximum=int(seen[-1]) + low,
        mean=mean,
        m2=m2,
        whole=True,
        counts=dict(zip((seen + low).tolist(), counted[seen].tolist(), strict=True)),
    )


def _of_bytes(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> Tally:
    """Pixels of one byte, counted by Pillow, which casts none of them."""
    import numpy as np
    from PIL import Image

    mask = None if valid is None else Image.fromarray(valid.view(np.uint8))
    return _counted(0, np.asarray(Image.fromarray(values).histogram(mask), dtype=np.int64))


def _of_large(picked: npt.NDArray[Any]) -> Tally:
    """Other numbers: moments in float64, and bins of a power of two that span them 4096 to 8192 times."""
    import numpy as np

    low, high = float(picked.min()), float(picked.max())
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(picked.mean(dtype=np.float64))
        m2 = float(picked.var(dtype=np.float64)) * picked.size
    span = high - low
    size = max(span, abs(low) * 2**-40, abs(high) * 2**-40)
    # Nothing but zeros lie in bin 0 whatever the width: the finest leaves it to other tallies.
    shift = max(_FINEST, math.floor(math.log2(size)) - _FINE_BITS) if 0 < size < math.inf else _FINEST
    if picked.dtype.kind in "iu":
        shift = max(0, shift)
    tally = Tally(valid=int(picked.size), minimum=low, maximum=high, mean=mean, m2=m2, shift=shift)
    if not (math.isfinite(span) and math.isfinite(mean) and math.isfinite(m2)):
        return tally
    first = math.floor(low / 2.0**shift)
    for start in range(0, picked.size, _CHUNK):
        bins = np.floor(picked[start : start + _CHUNK].astype(np.float64) / 2.0**shift).astype(np.int64) - first
        counted = np.bincount(bins)
        for bin_ in np.flatnonzero(counted).tolist():
            tally.counts[bin_ + first] = tally.counts.get(bin_ + first, 0) + int(counted[bin_])
    return tally


def _joined(counts: dict[int, int], shift: int) -> dict[int, int]:
    if not shift:
        return dict(counts)
    joined: dict[int, int] = {}
    for bin_, count in counts.items():
        joined[bin_ >> shift] = joined.get(bin_ >> shift, 0) + count
    return joined


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
