"""GDAL as this project runs it: closed to the network and to other files, its cache bounded, its warnings heard."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MIB = 2**20

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SOURCE_FORMATS: dict[str, tuple[bytes, ...]] = {
    "GTiff": _TIFF,
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
}
"""Formats that are read, by GDAL driver, with the bytes that such files begin with.

None of them can point at another file or at the network, as VRT, WMS or HDF can.
"""


def driver_for(head: bytes) -> str | None:
    """The driver for a file that begins with ``head``, or None when it is in no format that is read."""
    return next((driver for driver, magics in SOURCE_FORMATS.items() if head.startswith(magics)), None)


_MEANT_FOR_ANOTHER = (b"<VRTDataset", b"<OGRVRT", b"<GDAL_", b"<GDALTileIndex", b"<WMS", b"<WMT_MS", b"<TileMap")


def of_one_format(head: bytes) -> bool:
    """Whether GDAL, left to choose, would take a file that begins with ``head`` for the raster that it is.

    A VRT opens what it names by any driver, and some drivers look for their signature anywhere in the first KiB.
    """
    return driver_for(head) is not None and not any(sign in head for sign in _MEANT_FOR_ANOTHER)


def gdal_options(cache_bytes: int = 64 * MIB) -> dict[str, Any]:
    """Options for ``rasterio.Env``. ``GDAL_CACHEMAX`` is in bytes when it is given as an option.

    Files beside a source (``.aux.xml``, ``.ovr``, ``.msk``, world files) are not looked for: they can name any other.
    """
    return {
        "GDAL_CACHEMAX": cache_bytes,
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_GEOREF_SOURCES": "INTERNAL",
        "GDAL_TIFF_INTERNAL_MASK": "YES",
        "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
        "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
        "GDAL_VRT_ENABLE_PYTHON": "NO",
        "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "SIBLING_OR_CHILD_OF_VRT_PATH",
    }


@contextmanager
def gdal_environment(cache_bytes: int = 64 * MIB) -> Iterator[None]:
    """One ``rasterio.Env`` for a whole handler call."""
    import rasterio

    with rasterio.Env(**gdal_options(cache_bytes)):
        yield


@contextmanager
def gdal_messages() -> Iterator[list[str]]:
    """What GDAL says in this thread meanwhile: warnings and errors that did not become exceptions."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                messages.append(record.getMessage())

    collect = Collect(logging.WARNING)
    logger = logging.getLogger("rasterio")
    logger.addHandler(collect)
    try:
        yield messages
    finally:
        logger.removeHandler(collect)


def gdal_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises when GDAL fails: its own errors, and GDAL's where rasterio passes them on as they are."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError, ValueError, OverflowError, UnicodeError


@contextmanager
def judged_here() -> Iterator[None]:
    """Silence rasterio's warnings about absent georeferencing and nodata beside alpha: validation tells of both."""
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield
