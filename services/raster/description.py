"""What a raster carries beside its pixels, taken from its source and written into what is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from services.raster.statistics import BandStatistics
from services.raster.tile_grid import Box

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.enums import ColorInterp
    from rasterio.io import DatasetReader, DatasetWriter

STATISTICS_TAGS = "STATISTICS_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the pixels of an output are: their grid, type, and what says which of them are valid.

    ``nodata`` is the value of pixels without data, ``masked`` whether a mask says so; ``alpha`` is the number of the
    alpha band, from 0.
    """

    width: int
    height: int
    count: int
    dtype: str
    crs: CRS | None
    transform: Affine
    nodata: float | None
    masked: bool
    alpha: int | None

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel with all bands and its mask."""
        import numpy as np

        return self.count * np.dtype(self.dtype).itemsize + (1 if self.masked else 0)

    def part(self, box: Box) -> Layout:
        """The layout of a window."""
        from affine import Affine

        known = self.transform
        corner = (
            known.c + known.a * box.left + known.b * box.top,
            known.f + known.d * box.left + known.e * box.top,
        )
        transform = Affine(known.a, known.b, corner[0], known.d, known.e, corner[1])
        return replace(self, width=box.width, height=box.height, transform=transform)

    @property
    def can_be_empty(self) -> bool:
        """Whether a pixel can be without data at all."""
        return self.nodata is not None or self.masked or self.alpha is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Tags, names, units, scales and colours; one entry a band where there are several."""

    tags: Mapping[str, str]
    band_tags: Sequence[Mapping[str, str]]
    descriptions: Sequence[str | None]
    units: Sequence[str | None]
    scales: Sequence[float]
    offsets: Sequence[float]
    colorinterp: Sequence[ColorInterp]
    colormaps: Mapping[int, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def has_alpha(self) -> bool:
        """Whether a band says which pixels are valid."""
        return any(interp.name == "alpha" for interp in self.colorinterp)

    @classmethod
    def of(cls, source: DatasetReader, bands: Sequence[int]) -> Description:
        """What ``source`` says of itself and of those bands. Statistics are not taken: they may be stale."""
        from rasterio.enums import ColorInterp

        palettes = [band for band in bands if source.colorinterp[band - 1] == ColorInterp.palette]
        return cls(
            tags=_lasting(source.tags()),
            band_tags=[_lasting(source.tags(band)) for band in bands],
            descriptions=[source.descriptions[band - 1] for band in bands],
            units=[source.units[band - 1] for band in bands],
            scales=[source.scales[band - 1] for band in bands],
            offsets=[source.offsets[band - 1] for band in bands],
            colorinterp=[source.colorinterp[band - 1] for band in bands],
            colormaps={band: source.colormap(band) for band in palettes},
        )

    def write(self, written: DatasetWriter, statistics: Sequence[BandStatistics]) -> None:
        """Into a new GeoTIFF; ``statistics`` become the tags that GDAL knows."""
        written.colorinterp = tuple(self.colorinterp)
        written.update_tags(**self.tags)
        for number, tags in enumerate(self.band_tags):
            band = number + 1
            known = _statistics_tags(statistics[number]) if statistics else {}
            if tags or known:
                written.update_tags(band, **{**tags, **known})
            if self.descriptions[number]:
                written.set_band_description(band, self.descriptions[number])
            if self.units[number]:
                written.set_band_unit(band, self.units[number])
        for band, colours in self.colormaps.items():
            written.write_colormap(band, colours)
        if any(scale != 1.0 for scale in self.scales) or any(self.offsets):
            written.scales, written.offsets = tuple(self.scales), tuple(self.offsets)


def _statistics_tags(band: BandStatistics) -> dict[str, str]:
    known: dict[str, Any] = {
        "MINIMUM": band.minimum,
        "MAXIMUM": band.maximum,
        "MEAN": band.mean,
        "STDDEV": band.stddev,
    }
    if any(value is None or not math.isfinite(value) for value in known.values()):
        return {}
    known["VALID_PERCENT"] = band.valid_percent
    return {STATISTICS_TAGS + name: f"{value:.17g}" for name, value in known.items()}


def _lasting(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in tags.items() if not name.startswith(STATISTICS_TAGS)}
