"""Files that hold an area, read where the process's storage lets handlers read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from core.storage import LocalFiles, Storage, storage_of
from services.h3.geojson import refuse

MAX_BYTES = 256 * 1024 * 1024

ReadArea = Callable[[str], bytes]
"""Gives what is in the file that a path or URL names."""


def read_through(context: DockerTaskContext) -> ReadArea:
    """Reads files of this machine and remote ones through the storage of ``context``, at most 256 MiB of each.

    The function raises PermanentError (``SOURCE_NOT_ALLOWED`` and other codes of the storage, ``AREA_TOO_LARGE``,
    ``AREA_UNREADABLE``) and TransientError when a remote file cannot be had now.
    """
    storage = storage_of(context)

    def read(address: str) -> bytes:
        if not storage.is_remote(address):
            return _read(storage, address)
        directory = context.work_dir / "area"
        directory.mkdir(exist_ok=True)
        fetched = storage.fetch(address, directory, field="area", watch=_within_bounds)
        try:
            return fetched.path.read_bytes()
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    return read


def read_local(address: str) -> bytes:
    """Reads files of this machine, wherever they are.

    Raises:
        PermanentError: AREA_TOO_LARGE or AREA_UNREADABLE; SOURCE_NOT_SUPPORTED for a remote file.
    """
    storage = LocalFiles()
    if storage.is_remote(address):
        storage.open(address, field="area")
    return _read(storage, address)


def _read(storage: Storage, address: str) -> bytes:
    path = storage.readable(Path(address.removeprefix("file://")), field="area")
    try:
        _within_bounds(path.stat().st_size, None)
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise refuse(f"the file {address} cannot be read: {reason}", "AREA_UNREADABLE", given=address) from error


def _within_bounds(done: int, total: int | None) -> None:
    size = max(done, total or 0)
    if size > MAX_BYTES:
        raise PermanentError(
            f"area: a file of at most {MAX_BYTES} bytes is read, not one of {size}", code="AREA_TOO_LARGE"
        )
