"""Opening a source: only files, only formats that cannot reach elsewhere, and every failure with its own code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from core.storage import RemoteReader
from services.raster.errors import Code, RasterError
from services.raster.finding import Finding
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A raster to be read, as one file of this machine; cheap to pass on and to open again in other threads.

    Args:
        address: what the parameters named, without secrets; results show it.
        path: the file that is opened.
        name: the file name that outputs and messages go by.
        version: changes when the content behind ``address`` does.
        driver: the one GDAL driver that may open it; None: the one of ``SOURCE_FORMATS`` that its first bytes name.
        format: the driver of the raster itself, when ``path`` is a VRT around it.
        file_bytes: bytes of pixels on disk, when the file at ``path`` is not all there is (a checked VRT).
        remarks: what its owner should know of how it is read.
        reader: what it is read through, when it is not on this machine; ``path`` is only a name then.
    """

    address: str
    path: Path
    name: str
    version: str
    driver: str | None = None
    format: str | None = None
    file_bytes: int | None = None
    remarks: tuple[Finding, ...] = ()
    reader: RemoteReader | None = None

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """A plain file of this machine."""
        facts = path.stat()
        return cls(address=str(path), path=path, name=path.name, version=f"{facts.st_size}|{facts.st_mtime_ns}")

    @property
    def stem(self) -> str:
        """``name`` without its ending."""
        return Path(self.name).stem

    @property
    def size(self) -> int:
        """Bytes on disk."""
        if self.reader is not None:
            return self.reader.size
        return self.path.stat().st_size if self.file_bytes is None else self.file_bytes


def local_path(source_url: str, *, field: str = "source_url") -> Path:
    """The path that ``source_url``, the value of the parameter ``field``, names.

    Raises:
        RasterError: SOURCE_NOT_SUPPORTED when it is no local path.
    """
    if source_url.startswith("file://"):
        parts = urlsplit(source_url)
        if parts.netloc not in {"", "localhost"}:
            raise RasterError(
                Code.SOURCE_NOT_SUPPORTED, f"{field}: file URLs must not name a host, got {parts.netloc!r}"
            )
        return Path(unquote(parts.path))
    if "://" in source_url:
        scheme = source_url.partition("://")[0]
        raise RasterError(
            Code.SOURCE_NOT_SUPPORTED,
            f"{field}: {scheme}:// sources are not read by this worker; give the path of a mounted file",
            scheme=scheme,
        )
    if source_url.startswith("/vsi"):
        raise RasterError(
            Code.SOURCE_NOT_SUPPORTED, f"{field}: GDAL's virtual file systems (/vsi…) are closed; give a plain path"
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
def open_source(source: Source) -> Iterator[DatasetReader]:
    """The raster of ``source``, opened with the one driver that may open it.

    Call it inside :func:`services.raster.gdal.gdal_environment`. The header's claims are bounded before
    any pixel is read.

    Raises:
        RasterError: saying why it cannot be opened or may not be processed.
    """
    import rasterio

    if source.reader is not None:
        yield from _opened_remotely(source, source.reader)
        return
    path, name = source.path, source.name
    size = readable_file(path)
    head = first_bytes(path)
    driver = source.driver or driver_for(head)
    if driver is None:
        raise not_taken(name, head)
    with judged_here(), gdal_messages() as messages:
        try:
            dataset = rasterio.open(path, driver=driver)
        except gdal_errors() as error:
            raise _why_not_opened(name, head, driver, size, str(error)) from error
        with dataset:
            _refuse_lost_directory_entries(name, messages)
            check_claims(dataset, name, source.size)
            yield dataset


def _opened_remotely(source: Source, reader: RemoteReader) -> Iterator[DatasetReader]:
    """As :func:`open_source`; a read that failed on the way is the error, whatever GDAL made of it."""
    import rasterio

    def opener(_: object, mode: str = "rb") -> BinaryIO:  # noqa: ARG001 - what rasterio calls it with
        return reader.open()

    head = reader.open().read(16)
    driver = driver_for(head)
    try:
        if driver is None:
            raise not_taken(source.name, head)
        with judged_here(), gdal_messages() as messages:
            try:
                dataset = rasterio.open(source.name, driver=driver, opener=opener)
            except gdal_errors() as error:
                raise _why_not_opened(source.name, head, driver, reader.size, str(error)) from error
            with dataset:
                _refuse_lost_directory_entries(source.name, messages)
                check_claims(dataset, source.name, reader.size)
                yield dataset
    except RasterError as error:
        if (failure := reader.failure()) is not None:
            raise failure from error
        raise
    if (failure := reader.failure()) is not None:
        raise failure


def first_bytes(path: Path) -> bytes:
    """The first KiB, by which formats are told apart.

    Raises:
        RasterError: FILE_NOT_READABLE.
    """
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise RasterError(Code.FILE_NOT_READABLE, f"source_url: {path} cannot be read: {error.strerror}") from error


def not_taken(name: str, head: bytes) -> RasterError:
    """Why a file that begins with ``head`` is not opened."""
    read = f"formats that are read: {', '.join(SOURCE_FORMATS)}"
    if b"<VRTDataset" in head or b"<OGRVRTDataSource" in head:
        return RasterError(
            Code.FORMAT_NOT_ALLOWED,
            f"{name} is a GDAL VRT, which can name any other file; give the rasters themselves",
        )
    for magic, kind in _OTHER_FORMATS:
        if head.startswith(magic):
            return RasterError(Code.FORMAT_NOT_ALLOWED, f"{name} is {kind}; {read}")
    return RasterError(Code.NOT_A_RASTER, f"{name} is not a raster; {read}")


def _why_not_opened(name: str, head: bytes, driver: str, size: int, reason: str) -> RasterError:
    if driver == "GTiff":
        offset = first_directory_offset(head)
        if offset is None or offset >= size:
            return RasterError(
                Code.TRUNCATED, f"{name} is cut short: its TIFF directory lies beyond its end ({size} bytes)"
            )
    return RasterError(Code.CORRUPT_DATA, f"{name} begins as {driver} but cannot be opened: {reason}")


_LOST_ENTRY = ("tag ignored", "IO error during reading", "Cannot read TIFF directory", "Can not read TIFF directory")


def _refuse_lost_directory_entries(name: str, messages: list[str]) -> None:
    for message in messages:
        if any(sign in message for sign in _LOST_ENTRY):
            raise RasterError(
                Code.CORRUPT_DATA,
                f"{name} has lost part of its description (tags, georeferencing or nodata): {message}",
            )


def declared_bytes(dataset: DatasetReader) -> int:
    """Bytes of all pixels of all bands, uncompressed."""
    return int(dataset.width) * int(dataset.height) * sum(_itemsizes(dataset))


def _itemsizes(dataset: DatasetReader) -> list[int]:
    import numpy as np

    return [8 if "complex" in dtype else np.dtype(dtype).itemsize for dtype in dataset.dtypes]


def check_claims(dataset: DatasetReader, name: str, size: int) -> None:
    """Refuse a raster that declares more than can be processed, or more than ``size`` bytes can honestly hold.

    Raises:
        RasterError: NO_BANDS or DECLARED_SIZE_TOO_LARGE.
    """
    if dataset.count == 0:
        raise RasterError(Code.NO_BANDS, f"{name} has no raster band", subdatasets=len(dataset.subdatasets))
    itemsizes = _itemsizes(dataset)
    declared = declared_bytes(dataset)
    shape = f"{dataset.width} x {dataset.height} x {dataset.count}"
    if declared > MAX_DECLARED_BYTES:
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"{name} declares {shape} = {declared / 2**30:.0f} GiB; "
            f"at most {MAX_DECLARED_BYTES / 2**30:.0f} GiB are taken",
            declared_bytes=declared,
        )
    if declared > _EXPANSION_MATTERS_ABOVE and declared > size * MAX_EXPANSION:
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"{name} declares {shape} = {declared / 2**30:.0f} GiB in {size} bytes; "
            f"at most {MAX_EXPANSION} times the size on disk are taken",
            declared_bytes=declared,
        )
    block = max(rows * columns for rows, columns in dataset.block_shapes) * max(itemsizes)
    if block > MAX_BLOCK_BYTES:
        raise RasterError(
            Code.DECLARED_SIZE_TOO_LARGE,
            f"{name} has blocks of {block / 2**30:.1f} GiB; at most {MAX_BLOCK_BYTES / 2**30:.0f} GiB can be decoded",
            block_bytes=block,
        )
