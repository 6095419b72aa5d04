"""A warning about a raster that can be processed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FindingCode(StrEnum):
    """Machine-readable names of the warnings."""

    NODATA_MISSING = "NODATA_MISSING"
    NODATA_OUT_OF_RANGE = "NODATA_OUT_OF_RANGE"
    NODATA_DIFFERS = "NODATA_DIFFERS"
    ALPHA_AND_NODATA = "ALPHA_AND_NODATA"
    ALL_NODATA = "ALL_NODATA"
    NON_FINITE_PIXELS = "NON_FINITE_PIXELS"
    ROTATED = "ROTATED"
    SOUTH_UP = "SOUTH_UP"
    NON_SQUARE_PIXELS = "NON_SQUARE_PIXELS"
    GCP_ONLY = "GCP_ONLY"
    SUSPICIOUS_EXTENT = "SUSPICIOUS_EXTENT"
    NOT_EARTH = "NOT_EARTH"
    WIDE_DTYPE = "WIDE_DTYPE"
    MIXED_DTYPES = "MIXED_DTYPES"
    CRS_FROM_PARAMETER = "CRS_FROM_PARAMETER"
    INPUT_CRS_IGNORED = "INPUT_CRS_IGNORED"
    SIDECAR_READ = "SIDECAR_READ"
    SIDECAR_IGNORED = "SIDECAR_IGNORED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning."""

    code: FindingCode
    message: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"code": self.code.value, "message": self.message}
