"""What can be wrong with a raster or with what was asked of it, each with a stable code."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from core.errors import PermanentError


class Code(StrEnum):
    """Machine-readable names of the refusals of the raster handlers."""

    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    FILE_NOT_READABLE = "FILE_NOT_READABLE"
    NOT_A_FILE = "NOT_A_FILE"
    EMPTY_FILE = "EMPTY_FILE"
    NOT_A_RASTER = "NOT_A_RASTER"
    FORMAT_NOT_ALLOWED = "FORMAT_NOT_ALLOWED"
    SOURCE_NOT_SUPPORTED = "SOURCE_NOT_SUPPORTED"
    ARCHIVE_REFUSED = "ARCHIVE_REFUSED"
    VRT_REFUSED = "VRT_REFUSED"
    SIDECAR_REFUSED = "SIDECAR_REFUSED"
    DRIVER_MISSING = "DRIVER_MISSING"
    SUBDATASET_NOT_FOUND = "SUBDATASET_NOT_FOUND"
    TRUNCATED = "TRUNCATED"
    CORRUPT_DATA = "CORRUPT_DATA"
    NO_BANDS = "NO_BANDS"
    DECLARED_SIZE_TOO_LARGE = "DECLARED_SIZE_TOO_LARGE"
    UNSUPPORTED_DTYPE = "UNSUPPORTED_DTYPE"
    CRS_MISSING = "CRS_MISSING"
    CRS_INVALID = "CRS_INVALID"
    CRS_NOT_TRANSFORMABLE = "CRS_NOT_TRANSFORMABLE"
    NOT_GEOREFERENCED = "NOT_GEOREFERENCED"
    RPC_ONLY = "RPC_ONLY"
    OPTION_NOT_ALLOWED = "OPTION_NOT_ALLOWED"
    OUTPUT_NOT_A_DIRECTORY = "OUTPUT_NOT_A_DIRECTORY"
    OUTPUT_NOT_WRITABLE = "OUTPUT_NOT_WRITABLE"
    COG_INVALID = "COG_INVALID"
    COG_WRITE_FAILED = "COG_WRITE_FAILED"
    STAC_INVALID = "STAC_INVALID"
    COLLECTION_EMPTY = "COLLECTION_EMPTY"


class RasterError(PermanentError):
    """A refusal: the same raster and the same parameters would be refused again."""

    def __init__(self, code: Code, message: str, **details: Any) -> None:
        super().__init__(message, code=code.value, details=details)


Refuser = Callable[[str], RasterError]
"""Makes the refusal of a thing from the reason why it is refused."""
