"""Where outputs go, and how a file appears under its final name only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.docker_context import DockerTaskContext
from core.errors import TransientError
from services.raster.errors import Code, RasterError
from services.raster.source import local_path

_CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of one raster, side by side in a directory of the job's own."""

    directory: Path
    stem: str

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


def outputs_for(source_url: str, output_dir: str | None, context: DockerTaskContext) -> Outputs:
    """``<output_dir>/<first 16 digits of the job id>/<stem>`` with ``.tif``, ``.json``, ``.png``; makes the directory.

    Without ``output_dir`` the worker's (``services["output_dir"]``), else the task's work directory.

    Raises:
        RasterError: OUTPUT_NOT_A_DIRECTORY or OUTPUT_NOT_WRITABLE.
    """
    root = output_dir or context.services.get("output_dir") or context.work_dir
    directory = Path(root).absolute() / _job_directory(context.job_id)
    _make_writable(directory)
    return Outputs(directory, stem_of(source_url))


def stem_of(source_url: str) -> str:
    """The source's file name without its ending, safe in URLs and on every file system."""
    name = unicodedata.normalize("NFC", local_path(source_url).stem)
    safe = re.sub(r"[^\w.-]+", "_", name).strip("._")[:100]
    return safe or "raster"


def _job_directory(job_id: str) -> str:
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
