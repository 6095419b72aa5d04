"""What the owner of a raster should know though it can be processed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from services.raster.finding import Finding, FindingCode
from services.raster.profile import Georeferencing, Profile, crs_name
from services.raster.source import Source
from services.raster.statistics import BandStatistics


def find(
    profile: Profile, statistics: Sequence[BandStatistics], *, source: Source, input_crs: str | None, own_crs: bool
) -> list[Finding]:
    """Everything worth a warning, in a fixed order."""
    return [
        *_about_nodata(profile, statistics),
        *_about_place(profile),
        *_about_pixels(profile, statistics),
        *_about_crs(profile, input_crs, own_crs=own_crs),
        *source.remarks,
    ]


def _about_nodata(profile: Profile, statistics: Sequence[BandStatistics]) -> Iterator[Finding]:
    values = profile.nodata
    known = [value for value in values if value is not None]
    if not known and not profile.has_alpha and not profile.has_dataset_mask:
        yield Finding(FindingCode.NODATA_MISSING, "no nodata value, mask or alpha band: every pixel counts as valid")
    if known and profile.has_alpha:
        yield Finding(FindingCode.ALPHA_AND_NODATA, "both an alpha band and a nodata value say which pixels are valid")
    outside = sorted(
        {f"{value:g}" for value, dtype in zip(values, profile.dtypes, strict=True) if not fits(value, dtype)}
    )
    if outside:
        yield Finding(
            FindingCode.NODATA_OUT_OF_RANGE, f"nodata {', '.join(outside)} cannot occur in {profile.dtype} pixels"
        )
    if all(band.valid_percent == 0 for band in statistics):
        yield Finding(FindingCode.ALL_NODATA, "not one valid pixel was seen")


def fits(value: float | None, dtype: str) -> bool:
    """Whether a pixel of ``dtype`` can have the value; None, which is no value, fits."""
    import numpy as np

    if value is None or dtype.startswith("float"):
        return True
    limits = np.iinfo(dtype)
    return value.is_integer() and float(limits.min) <= value <= float(limits.max)


def _about_place(profile: Profile) -> Iterator[Finding]:
    transform = profile.transform
    if profile.georeferencing is Georeferencing.GCPS:
        yield Finding(
            FindingCode.GCP_ONLY, "placed by ground control points only: the COG is warped, its pixels are resampled"
        )
        return
    if profile.is_rotated:
        yield Finding(FindingCode.ROTATED, "rows do not run along the x axis; some readers ignore that")
    elif transform.e > 0:
        yield Finding(FindingCode.SOUTH_UP, "the first row is the southernmost; some readers show it upside down")
    across, down = math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
    if abs(across - down) > 0.01 * max(across, down):
        yield Finding(FindingCode.NON_SQUARE_PIXELS, f"pixels are {across:g} wide and {down:g} high")


def _about_pixels(profile: Profile, statistics: Sequence[BandStatistics]) -> Iterator[Finding]:
    if sum(band.non_finite for band in statistics):
        yield Finding(FindingCode.NON_FINITE_PIXELS, "NaN or infinite pixels that nodata does not cover")
    wide = sorted({dtype for dtype in profile.dtypes if dtype in {"float64", "int64", "uint64"}})
    if wide:
        yield Finding(FindingCode.WIDE_DTYPE, f"{', '.join(wide)} pixels take twice the space of a 32-bit type")


def _about_crs(profile: Profile, input_crs: str | None, *, own_crs: bool) -> Iterator[Finding]:
    from services.raster.footprint import covers_earth, is_on_earth

    if input_crs and own_crs:
        yield Finding(
            FindingCode.INPUT_CRS_IGNORED,
            f"input_crs {input_crs} was not used: the raster is in {crs_name(profile.crs)}",
        )
    elif input_crs:
        yield Finding(FindingCode.CRS_FROM_PARAMETER, f"the raster has no CRS; taken to be in {input_crs}")
    if profile.crs is None or profile.georeferencing is Georeferencing.GCPS:
        return
    if not is_on_earth(profile.crs):
        yield Finding(FindingCode.NOT_EARTH, f"{crs_name(profile.crs)} is not on Earth; the STAC item has no geometry")
    elif problem := covers_earth(profile):
        yield Finding(FindingCode.SUSPICIOUS_EXTENT, problem)
