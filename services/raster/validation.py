"""Validation: what a raster is, whether it can be processed, and what its owner should know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from services.raster.errors import Code, RasterError
from services.raster.finding import Finding
from services.raster.findings import find
from services.raster.gdal import gdal_errors, gdal_messages
from services.raster.profile import Profile, as_json_number, crs_name, has_own_crs, read_profile
from services.raster.raster_type import Detection, detect
from services.raster.source import Source, open_source
from services.raster.statistics import Accumulator, BandStatistics, sample_windows, valid_mask
from services.raster.tiff_layout import blocks_beyond_end

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A raster that can be processed: its facts, sampled statistics, kind and warnings."""

    source_url: str
    profile: Profile
    statistics: tuple[BandStatistics, ...]
    detection: Detection
    warnings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that ``validate_raster`` returns."""
        profile = self.profile
        return {
            "valid": True,
            "source_url": self.source_url,
            "source_crs": crs_name(profile.crs),
            "raster_type": self.detection.as_dict(),
            "shape": list(profile.shape),
            "band_count": profile.count,
            "dtype": profile.dtype,
            "nodata": as_json_number(profile.nodata[0]),
            "bounds": list(profile.bounds),
            "transform": list(profile.transform)[:6],
            "driver": profile.driver,
            "georeferencing": profile.georeferencing.value,
            "bands": [self._band(number) for number in range(profile.count)],
            "block_shape": list(profile.block_shape),
            "overviews": list(profile.overviews),
            "compression": profile.compression,
            "file_bytes": profile.file_bytes,
            "declared_bytes": profile.declared_bytes,
            "estimated_output_bytes": estimated_output_bytes(profile),
            "warnings": [warning.as_dict() for warning in self.warnings],
        }

    def _band(self, number: int) -> dict[str, Any]:
        profile, statistics = self.profile, self.statistics[number]
        return {
            "band": number + 1,
            "dtype": profile.dtypes[number],
            "nodata": as_json_number(profile.nodata[number]),
            "colorinterp": profile.colorinterp[number],
            "description": profile.descriptions[number],
            "unit": profile.units[number],
            "statistics": statistics.as_dict(),
            "statistics_are_exact": statistics.exact,
        }


def validate(source: Source, *, input_crs: str | None = None) -> Validation:
    """Inspect the raster ``source``, reading at most about four million pixels of it.

    Call it inside :func:`services.raster.gdal.gdal_environment`.

    Raises:
        RasterError: with the code that says why the raster cannot be processed.
    """
    with open_whole(source) as dataset:
        profile = read_profile(dataset, input_crs=input_crs, file_bytes=source.size)
        profile = replace(profile, driver=source.format or profile.driver)
        statistics, smoothness = _sampled(dataset, source.name)
        detection = detect(profile, statistics, name=source.stem, smoothness=smoothness)
        warnings = find(profile, statistics, source=source, input_crs=input_crs, own_crs=has_own_crs(dataset))
    return Validation(
        source_url=source.address,
        profile=profile,
        statistics=statistics,
        detection=detection,
        warnings=tuple(warnings),
    )


@contextmanager
def open_whole(source: Source) -> Iterator[DatasetReader]:
    """As :func:`services.raster.source.open_source`, for a file of which no end is missing.

    Raises:
        RasterError: as there, and TRUNCATED when a TIFF's block table points beyond the file's end.
    """
    with open_source(source) as dataset:
        _refuse_truncated(dataset, source.size, source.name)
        yield dataset


def _refuse_truncated(dataset: DatasetReader, file_bytes: int, name: str) -> None:
    """Raise RasterError (TRUNCATED) when a TIFF's block table points beyond the file's end."""
    if dataset.driver == "GTiff" and (lost := blocks_beyond_end(dataset, file_bytes)):
        raise RasterError(
            Code.TRUNCATED,
            f"{name} is cut short: {lost} of its blocks lie beyond its end ({file_bytes} bytes)",
            blocks_lost=lost,
            file_bytes=file_bytes,
        )


@contextmanager
def readable_pixels(name: str) -> Iterator[None]:
    """Turn a failure to decode pixels, and what GDAL only warns of, into CORRUPT_DATA."""

    with gdal_messages() as messages:
        try:
            yield
        except gdal_errors() as error:
            reason = str(error.__cause__ or error)
            raise RasterError(Code.CORRUPT_DATA, f"{name} has pixels that cannot be read: {reason}") from error
    if messages:
        raise RasterError(Code.CORRUPT_DATA, f"{name} has pixels that cannot be read: {messages[0]}")


def _sampled(dataset: DatasetReader, name: str) -> tuple[tuple[BandStatistics, ...], float | None]:
    windows, exact = sample_windows(dataset)
    accumulators = [Accumulator() for _ in dataset.indexes]
    roughness: list[float] = []
    with readable_pixels(name):
        for window in windows:
            for band, accumulator in zip(dataset.indexes, accumulators, strict=True):
                values = dataset.read(band, window=window)
                mask = valid_mask(dataset, band, window, values)
                accumulator.add(values, mask)
                if band == 1:
                    roughness.extend(_neighbour_difference(values, mask))
    results = tuple(accumulator.result(exact=exact) for accumulator in accumulators)
    stddev = results[0].stddev
    smoothness = sum(roughness) / len(roughness) / stddev if roughness and stddev else None
    return results, smoothness


def _neighbour_difference(values: Any, mask: Any) -> Sequence[float]:
    import numpy as np

    both = mask[:, 1:] & mask[:, :-1]
    if not both.any():
        return []
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(values[:, 1:].astype(np.float64) - values[:, :-1].astype(np.float64))[both]
    difference = difference[np.isfinite(difference)]
    return [float(difference.mean())] if difference.size else []


def estimated_output_bytes(profile: Profile) -> int:
    """A rough size of the lossless COG: the pixels by a typical ratio of their type, and a third more for overviews."""
    ratio = {1: 1.8, 2: 2.5, 4: 2.0, 8: 2.0}
    import numpy as np

    return round(profile.declared_bytes / ratio[np.dtype(profile.dtype).itemsize] * 4 / 3)
