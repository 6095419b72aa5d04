"""Where outputs go, and how a file appears under its final name only when it is whole.

Files are always made in a directory: :func:`part_of` and :func:`publish` give each its name there. When the destination
is no directory, that one is the task's own, and :meth:`Outputs.deliver` sends finished files on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.docker_context import DockerTaskContext
from core.errors import TransientError
from core.storage import Destination, storage_of
from services.raster.errors import Code, RasterError
from services.raster.source import local_path
from services.raster.watch import StopRequested

CONTENT_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".json": "application/geo+json",
    ".png": "image/png",
    ".vrt": "application/xml",
}
_CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of one raster, side by side in a directory of the job's own.

    ``destination`` is where finished files are sent on to; None: ``directory`` is their final place.
    """

    directory: Path
    stem: str
    destination: Destination | None = None

    @property
    def cog(self) -> Path:
        """The Cloud Optimized GeoTIFF."""
        return self.directory / f"{self.stem}.tif"

    @property
    def item(self) -> Path:
        """The STAC item."""
        return self.directory / f"{self.stem}.json"

    @property
    def thumbnail(self) -> Path:
        """The thumbnail."""
        return self.directory / f"{self.stem}.png"

    def address_of(self, file: Path) -> str:
        """Where readers find ``file`` of ``directory`` or below: its path, or its URL in the destination."""
        if self.destination is None:
            return str(file)
        return self.destination.address_of(file.relative_to(self.directory).as_posix())

    def deliver(self, file: Path, context: DockerTaskContext, *, sha256: str | None = None) -> str:
        """Send a finished file to the destination; returns :meth:`address_of`. Nothing is sent twice.

        Raises:
            StorageRefused: when the destination may not be written.
            TransientError: when it cannot be written now.
            StopRequested: when the task was asked to stop meanwhile.
        """
        if self.destination is not None:

            def watch(done: int, total: int | None) -> None:  # noqa: ARG001 - the port's signature
                if context.should_stop():
                    raise StopRequested

            self.destination.put(
                file,
                file.relative_to(self.directory).as_posix(),
                content_type=CONTENT_TYPES.get(file.suffix, "application/octet-stream"),
                sha256=sha256 or sha256_of(file),
                watch=watch,
            )
        return self.address_of(file)

    def forget_staged(self) -> None:
        """Remove the files here once they are delivered; those whose final place is here stay."""
        if self.destination is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


def outputs_for(stem: str, output_dir: str | None, context: DockerTaskContext) -> Outputs:
    """``<output_dir>/<first 16 digits of the job id>/<stem>`` with ``.tif``, ``.json``, ``.png``; makes the directory.

    Without ``output_dir`` the worker's own (``services["output_address"]``, ``services["output_dir"]``), else the
    task's work directory.

    Raises:
        RasterError: OUTPUT_NOT_A_DIRECTORY or OUTPUT_NOT_WRITABLE.
        StorageRefused: OUTPUT_NOT_ALLOWED.
    """
    storage, job = storage_of(context), job_directory(context.job_id)
    address = output_dir or context.services.get("output_address")
    if address is not None and storage.is_remote(address):
        destination = storage.destination(f"{address.rstrip('/')}/{job}", field="output_dir")
        return _staged(stem, destination, context)
    if output_dir is not None:
        directory = storage.writable(local_path(output_dir, field="output_dir"), field="output_dir") / job
    else:
        directory = Path(context.services.get("output_dir") or context.work_dir).absolute() / job
    _make_writable(directory)
    return Outputs(directory, stem)


def outputs_beside(address: str, path: Path, context: DockerTaskContext) -> Outputs:
    """What goes beside a file at ``address``, which is here as ``path``.

    Raises:
        StorageRefused: OUTPUT_NOT_ALLOWED.
    """
    storage = storage_of(context)
    if storage.is_remote(address):
        return _staged(path.stem, storage.destination(address.rpartition("/")[0], field="cog_path"), context)
    return Outputs(storage.writable(path.parent, field="cog_path"), path.stem)


def _staged(stem: str, destination: Destination, context: DockerTaskContext) -> Outputs:
    directory = context.work_dir / "outputs"
    _make_writable(directory)
    return Outputs(directory, stem, destination)


def safe_stem(name: str) -> str:
    """A file name without its ending, safe in URLs and on every file system."""
    name = unicodedata.normalize("NFC", Path(name).stem)
    safe = re.sub(r"[^\w.-]+", "_", name).strip("._")[:100]
    return safe or "raster"


def job_directory(job_id: str) -> str:
    """The name of the directory that a job's outputs are in."""
    return job_id[:16] if job_id.isalnum() else hashlib.sha256(job_id.encode()).hexdigest()[:16]


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RasterError(
            Code.OUTPUT_NOT_A_DIRECTORY, f"output_dir: {directory} cannot be made, a part of it is a file"
        ) from error
    except OSError as error:
        raise _not_writable(directory, error) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RasterError(Code.OUTPUT_NOT_WRITABLE, f"output_dir: this worker may not write into {directory}")


def _not_writable(directory: Path, error: OSError) -> RasterError | TransientError:
    if error.errno in _FULL:
        return TransientError(f"no space left for {directory}")
    return RasterError(Code.OUTPUT_NOT_WRITABLE, f"output_dir: {directory} cannot be written: {error.strerror}")


@contextmanager
def part_of(final: Path, owner: str) -> Iterator[Path]:
    """A temporary name beside ``final``; what is left under it, and GDAL's own temporaries of it, goes at the end.

    ``owner`` (the task's id) keeps executions of different tasks apart; leftovers of a killed attempt go at the start.
    """
    part = final.with_name(f".{final.name}.{owner[:16]}.part")

    def clear() -> None:
        for left in final.parent.iterdir():
            if left.name.startswith(part.name):
                left.unlink(missing_ok=True)

    clear()
    try:
        yield part
    except OSError as error:
        raise _not_writable(final.parent, error) from error
    finally:
        clear()


def publish(part: Path, final: Path) -> None:
    """Give ``part`` its final name, on disk: a crash leaves either the whole file there or none."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish_bytes(content: bytes, final: Path, owner: str) -> None:
    """Write ``content`` to ``final``, whole or not at all."""
    with part_of(final, owner) as part:
        part.write_bytes(content)
        publish(part, final)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
