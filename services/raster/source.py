"""Opening a source: only files, only formats that cannot reach elsewhere, and every failure with its own code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from services.raster.errors import Code, RasterError
from services.raster.gdal import MIB, SOURCE_FORMATS, driver_for, gdal_errors, gdal_messages, judged_here
from services.raster.tiff_layout import first_directory_offset

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

MAX_DECLARED_BYTES = 256 * 1024 * MIB
MAX_BLOCK_BYTES = 1024 * MIB
MAX_EXPANSION = 20_000
_EXPANSION_MATTERS_ABOVE = 4 * 1024 * MIB

_OTHER_FORMATS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 or netCDF-4"),
    (b"CDF\x01", "netCDF"),
    (b"CDF\x02", "netCDF"),
    (b"GRIB", "GRIB"),
    (b"%PDF", "PDF"),
    (b"SQLite format 3", "an SQLite or GeoPackage file"),
)


def local_path(source_url: str) -> Path:
    """The path that ``source_url`` names.

    Raises:
        RasterError: SOURCE_NOT_SUPPORTED when it is no local path.
    """
    if source_url.startswith("file://"):
        parts = urlsplit(source_url)
        if parts.netloc not in {"", "localhost"}:
            raise RasterError(
                Code.SOURCE_NOT_SUPPORTED, f"source_url: file URLs must not name a host, got {parts.netloc!r}"
            )
        return Path(unquote(parts.path))
    if "://" in source_url:
        scheme = source_url.partition("://")[0]
        raise RasterError(
            Code.SOURCE_NOT_SUPPORTED,
            f"source_url: {scheme}:// sources are not read by this worker; give the path of a mounted file",
            scheme=scheme,
        )
    if source_url.startswith("/vsi"):
        raise RasterError(
            Code.SOURCE_NOT_SUPPORTED, "source_url: GDAL's virtual file systems (/vsi…) are closed; give a plain path"
        )
    return Path(source_url).absolute()


def readable_file(path: Path) -> int:
    """Size in bytes of a file that is there, is a file, can be read and is not empty.

    Raises:
        RasterError: FILE_NOT_FOUND, NOT_A_FILE, FILE_NOT_READABLE or EMPTY_FILE.
    """
    try:
        if not path.exists():
            raise RasterError(Code.FILE_NOT_FOUND, f"source_url: there is no file {path}")
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise RasterError(Code.NOT_A_FILE, f"source_url: {path} is {kind}; give the path of one raster file")
        size = path.stat().st_size
    except OSError as error:
        raise RasterError(
            Code.FILE_NOT_READABLE, f"source_url: {path} cannot be looked at: {error.strerror}"
        ) from error
    if not os.access(path, os.R_OK):
        raise RasterError(Code.FILE_NOT_READABLE, f"source_url: {path} may not be read by this worker")
    if size == 0:
        raise RasterError(Code.EMPTY_FILE, f"source_url: {path} is empty (0 bytes)")
    return size


@contextmanager
def open_source(source_url: str) -> Iterator[DatasetReader]:
    """The raster behind ``source_url``, opened with the one driver of ``SOURCE_FORMATS`` that its first bytes name.

    Call it inside :func:`services.raster.gdal.gdal_environment`. The header's claims are bounded before
    any pixel is read.

    Raises:
        RasterError: saying why it cannot be opened or may not be processed.
    """
    import rasterio

    path = local_path(source_url)
    size = readable_file(path)
    head = _first_bytes(path)
    driver = driver_for(head)
    if driver is None:
        raise _not_taken(path, head)
    with judged_here(), gdal_messages() as messages:
        try:
            dataset = rasterio.open(path, driver=driver)
        except gdal_errors() as error:
            raise _why_not_opened(path, head, driver, size, str(error)) from error
        with dataset:
            _refuse_lost_directory_entries(path, messages)
            _check_claims(dataset, path, size)
            yield dataset


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise RasterError(Code.FILE_NOT_READABLE, f"source_url: {path} cannot be read: {error.strerror}") from error


def _not_taken(path: Path, head: bytes) -> RasterError:
    read = f"formats that are read: {', '.join(SOURCE_FORMATS)}"
    if b"<VRTDataset" in head or b"<OGRVRTDataSource" in head:
        return RasterError(
            Code.FORMAT_NOT_ALLOWED,
            f"{path.name} is a GDAL VRT, which can name any other file; give the rasters themselves",
        )
    for magic, name in _OTHER_FORMATS:
        if head.startswith(magic):
            return RasterError(Code.FORMAT_NOT_ALLOWED, f"{path.name} is {name}; {read}")
    return RasterError(Code.NOT_A_RASTER, f"{path.name} is not a raster; {read}")


def _why_not_opened(path: Path, head: bytes, driver: str, size: int, reason: str) -> RasterError:
    if driver == "GTiff":
        offset = first_directory_offset(head)
        if offset is None or offset >= size:
            return RasterError(
                Code.TRUNCATED, f"{path.name} is cut short: its TIFF directory lies beyond its end ({size} bytes)"
            )
    return RasterError(Code.CORRUPT_DATA, f"{path.name} begins as {driver} but cannot be opened: {reason}")


_LOST_ENTRY = ("tag ignored", "IO error during reading", "Cannot read TIFF directory", "Can not read TIFF directory")


def _refuse_lost_directory_entries(path: Path, messages: list[str]) -> None:
    for message in messages:
        if any(sign in message for sign in _LOST_ENTRY):
            raise RasterError(
                Code.CORRUPT_DATA,
                f"{path.name} has lost part of its description (tags, georeferencing or nodata): {message}",
            )


def _check_claims(dataset: DatasetReader, path: Path, size: int) -> None:
    import numpy as np

    if dataset.count == 0:
        raise RasterError(Code.NO_BANDS, f"{path.name} has no raster band", subdatasets=len(dataset.subdatasets))
    itemsizes = [8 if "complex" in dtype else np.dtype(dtype).itemsize for dtype in dataset.dtypes]
    declared = dataset.width * dataset.height * sum(itemsizes)
    shape = f"{dataset.width} x {dataset.height} x {dataset.count}"
    if declared > MAX_DECLARED_BYTES:
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"{path.name} declares {shape} = {declared / 2**30:.0f} GiB; "
            f"at most {MAX_DECLARED_BYTES / 2**30:.0f} GiB are taken",
            declared_bytes=declared,
        )
    if declared > _EXPANSION_MATTERS_ABOVE and declared > size * MAX_EXPANSION:
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"{path.name} declares {shape} = {declared / 2**30:.0f} GiB in {size} bytes; "
            f"at most {MAX_EXPANSION} times the size on disk are taken",
            declared_bytes=declared,
        )
    block = max(rows * columns for rows, columns in dataset.block_shapes) * max(itemsizes)
    if block > MAX_BLOCK_BYTES:
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"{path.name} has blocks of {block / 2**30:.1f} GiB; "
            f"at most {MAX_BLOCK_BYTES / 2**30:.0f} GiB can be decoded",
            block_bytes=block,
        )
