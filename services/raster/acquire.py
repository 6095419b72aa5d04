"""From what a parameter names to one file of this machine that GDAL may open.

Remote files are copied into the task's work directory, archives are unpacked there, variables of netCDF and HDF5 files
are written out there, a VRT is rewritten there after everything it names has been checked, and what files beside
a raster say becomes a VRT around it there: what follows opens one file, and GDAL looks for no other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from core.docker_context import DockerTaskContext
from core.errors import InvalidInput, PermanentError
from core.storage import Fetched, StorageRefused, storage_of
from services.raster import archive, companions, subdatasets, vrt
from services.raster.errors import Code, RasterError
from services.raster.gdal import MIB, driver_for
from services.raster.source import Source, first_bytes, local_path, readable_file
from services.raster.uniform import uniform
from services.raster.watch import StopRequested

COPIED_UP_TO = 64 * MIB
"""Remote files up to this size are copied even for a short look: one transfer beats many."""


def source_of(
    source_url: str, context: DockerTaskContext, *, subdataset: str | None = None, field: str = "source_url"
) -> Source:
    """The raster that ``source_url`` names, as a file of this machine.

    Cheap when called again: a copy that is whole is not made twice, one that was cut off is gone on with. Call it
    inside :func:`services.raster.gdal.gdal_environment`, and let :func:`tidied` remove the copies.

    Raises:
        RasterError: when it is not there, not allowed, or no raster.
        StorageRefused: when its place may not be read.
        TransientError: when it cannot be had now.
        StopRequested: when the task was asked to stop meanwhile.
    """
    storage = storage_of(context)
    directory = _directory(context) / sha256(f"{source_url}\n{subdataset}".encode()).hexdigest()[:16]
    if source_url.startswith("/vsi") or not storage.is_remote(source_url):
        path = storage.readable(local_path(source_url), field=field)
        readable_file(path)
        source = replace(Source.of_file(path), address=source_url, name=local_path(source_url).name)
        beside = companions.found_beside(local_path(source_url), storage, field=field)
        remote = False
    else:
        fetched = _fetched(source_url, directory, context, field)
        source = Source(address=fetched.shown, path=fetched.path, name=fetched.name, version=fetched.sha256)
        readable_file(source.path)
        beside = []
        remote = True
    head = first_bytes(source.path)
    if archive.is_archive(head):
        source, beside = archive.unpacked(source, directory)
        head, remote = first_bytes(source.path), True
    if vrt.is_vrt(head):
        if remote:
            raise RasterError(
                Code.FORMAT_NOT_ALLOWED,
                f"{field}: {source.name} is a GDAL VRT that came alone, without the files that it names; give "
                "the rasters themselves, or a VRT on a mounted directory",
            )
        return uniform(vrt.rewritten(source, directory, storage), directory)
    if (kind := subdatasets.kind_of(head)) is not None:
        return subdatasets.written_out(source, kind, subdataset, directory)
    if subdataset is not None:
        raise RasterError(
            Code.OPTION_NOT_ALLOWED,
            f"subdataset: {source.name} has no variables to choose from; only netCDF and HDF files have",
        )
    return uniform(companions.joined(source, beside, directory), directory)


def source_to_inspect(source_url: str, context: DockerTaskContext, *, subdataset: str | None = None) -> Source:
    """As :func:`source_of`, for those who read little of it: a large remote GeoTIFF is read in pieces, not copied."""
    storage = storage_of(context)
    if not source_url.startswith("/vsi") and storage.is_remote(source_url) and subdataset is None:
        try:
            reader = storage.open(source_url, field="source_url")
        except StorageRefused as error:
            if error.code != "SOURCE_NOT_SEEKABLE":
                raise
        else:
            if reader.size > COPIED_UP_TO and driver_for(reader.open().read(16)) == "GTiff":
                return Source(
                    address=reader.shown,
                    path=_directory(context) / "in-pieces" / reader.name,
                    name=reader.name,
                    version=reader.version,
                    reader=reader,
                )
    return source_of(source_url, context, subdataset=subdataset)


@contextmanager
def tidied(context: DockerTaskContext) -> Iterator[None]:
    """Remove the copies of sources at the end, unless a later attempt can go on with them."""
    try:
        yield
    except (PermanentError, InvalidInput):
        shutil.rmtree(_directory(context), ignore_errors=True)
        raise
    shutil.rmtree(_directory(context), ignore_errors=True)


def _directory(context: DockerTaskContext) -> Path:
    return context.work_path / "source"


def _fetched(source_url: str, directory: Path, context: DockerTaskContext, field: str) -> Fetched:
    def watch(done: int, total: int | None) -> None:
        if total:
            context.report_progress(
                min(99.0, 100.0 * done / total), f"copying the source: {done // MIB} of {total // MIB} MiB"
            )
        if context.should_stop():
            raise StopRequested

    directory.mkdir(parents=True, exist_ok=True)
    return storage_of(context).fetch(source_url, directory, field=field, watch=watch)
