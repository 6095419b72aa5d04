"""What kind of raster this is, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.raster.parameters import RasterType
from services.raster.profile import Profile
from services.raster.statistics import BandStatistics


class Confidence(StrEnum):
    """How sure a detection is."""

    VERY_HIGH = "VERY_HIGH"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A detected type and what spoke for it."""

    detected_type: RasterType
    confidence: Confidence
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"detected_type": self.detected_type.value, "confidence": self.confidence.value, "reason": self.reason}


_COLOURS = {"red", "green", "blue"}
_ELEVATION = re.compile(
    r"(?i)\b(dem|dtm|dsm|dgm\d*|dom\d+|elevation|height|altitude|hoogte|bathymetry|egm(96|2008)?)\b"
)
_CLASSES = re.compile(r"(?i)\b(class|classes|classification|land ?cover|land ?use|category|categories|label)\b")
_NEAR_INFRARED = re.compile(r"(?i)\b(nir|near.?infra.?red)\b")
_FEW_CLASSES = 32
_ENOUGH_PIXELS = 2_000
_EARTH_HEIGHTS = (-11_500.0, 9_000.0)
_FLAT = 2.0
_SMOOTH = 0.1


def detect(profile: Profile, statistics: Sequence[BandStatistics], *, name: str, smoothness: float | None) -> Detection:
    """The kind of raster.

    Args:
        profile: the raster's facts.
        statistics: of each band, sampled.
        name: the file's name; a hint only.
        smoothness: mean absolute difference of horizontal neighbours of band 1 in standard deviations; None if unknown.
    """
    if profile.has_colormap:
        return _found(RasterType.CATEGORICAL, Confidence.VERY_HIGH, "the band has a colour table")
    data = [interp for interp in profile.colorinterp if interp != "alpha"]
    if len(data) == 1:
        return _one_band(profile, statistics[0], _hints(profile, name), smoothness)
    if set(data) == _COLOURS and len(data) == 3:
        kind = RasterType.RGBA if profile.has_alpha else RasterType.RGB
        return _found(kind, Confidence.VERY_HIGH, "the bands are marked " + ", ".join(profile.colorinterp))
    if len(data) == 3 and profile.dtype == "uint8":
        kind = RasterType.RGBA if profile.has_alpha else RasterType.RGB
        return _found(kind, Confidence.MEDIUM, "three bands of 8 bits, not marked as colours")
    if len(data) == 4:
        return _four_bands(profile, data)
    confidence = Confidence.HIGH if len(data) >= 5 else Confidence.LOW
    return _found(RasterType.MULTISPECTRAL, confidence, f"{len(data)} bands")


def _four_bands(profile: Profile, data: Sequence[str]) -> Detection:
    described = " ".join(text or "" for text in profile.descriptions)
    if _NEAR_INFRARED.search(described) or "nir" in data:
        return _found(RasterType.NIR, Confidence.VERY_HIGH, "a band is described as near infrared")
    if set(data[:3]) == _COLOURS:
        return _found(RasterType.NIR, Confidence.HIGH, "three colours and a fourth band that is not alpha")
    if profile.dtype in {"uint8", "uint16"}:
        return _found(
            RasterType.NIR, Confidence.MEDIUM, f"four bands of {profile.dtype}, the common order with near infrared"
        )
    return _found(RasterType.MULTISPECTRAL, Confidence.MEDIUM, "four bands, not marked")


def _one_band(profile: Profile, band: BandStatistics, hints: str, smoothness: float | None) -> Detection:
    low, high = band.minimum, band.maximum
    if low is None or high is None:
        return _found(RasterType.SINGLE_BAND, Confidence.LOW, "no valid pixel was seen")
    if band.distinct == 1:
        return _found(RasterType.SINGLE_BAND, Confidence.LOW, f"every valid pixel seen is {low:g}")
    if _EARTH_HEIGHTS[0] <= low and high <= _EARTH_HEIGHTS[1] and profile.dtype not in {"uint8", "int8"}:
        if _ELEVATION.search(hints):
            return _found(
                RasterType.DEM, Confidence.VERY_HIGH, "named after elevation, with values that heights can have"
            )
        relief = _relief(profile, low, high, smoothness)
    else:
        relief = None
    return (
        _classes(profile, band, hints)
        or relief
        or _found(RasterType.SINGLE_BAND, Confidence.HIGH, "one band of continuous values")
    )


def _classes(profile: Profile, band: BandStatistics, hints: str) -> Detection | None:
    if not profile.dtype.startswith(("int", "uint")):
        return None
    if _CLASSES.search(hints):
        return _found(RasterType.CATEGORICAL, Confidence.HIGH, "whole numbers in a raster that is named after classes")
    if band.distinct is None or band.distinct > _FEW_CLASSES or band.pixels < _ENOUGH_PIXELS:
        return None
    confidence = Confidence.HIGH if band.distinct <= _FEW_CLASSES // 2 else Confidence.MEDIUM
    return _found(RasterType.CATEGORICAL, confidence, f"only {band.distinct} different whole numbers")


def _relief(profile: Profile, low: float, high: float, smoothness: float | None) -> Detection | None:
    smooth = smoothness is not None and smoothness < _SMOOTH
    if profile.dtype not in {"float32", "float64", "int16", "int32"} or high - low <= _FLAT or not smooth:
        return None
    confidence = Confidence.HIGH if profile.dtype.startswith("float") else Confidence.MEDIUM
    return _found(RasterType.DEM, confidence, f"one smooth band with values from {low:g} to {high:g}")


def _hints(profile: Profile, name: str) -> str:
    return " ".join(
        (name.replace("_", " ").replace("-", " ").replace(".", " "), *(text or "" for text in profile.descriptions))
    )


def _found(kind: RasterType, confidence: Confidence, reason: str) -> Detection:
    return Detection(detected_type=kind, confidence=confidence, reason=reason)
