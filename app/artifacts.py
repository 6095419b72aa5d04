"""Files that a job made: only those that its results name, only where this process and the job keep outputs."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from core.errors import JobNotFound
from core.ports import StateStore
from core.records import TaskQuery
from core.states import TaskStatus
from core.storage import RemoteReader, Storage
from services.raster.outputs import job_directory

_PATH_KEYS = frozenset({"path", "picture", "stac"})
_MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".vrt": "application/xml",
    ".geojson": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
}
_MOST_TASKS = 1000
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Artifact:
    """A file that a job's results name; ``name`` is what it is asked for by, ``address`` what the result says."""

    name: str
    address: str

    @property
    def media_type(self) -> str:
        """By the file's ending."""
        suffix = PurePosixPath(self.name).suffix.lower()
        return _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(self.name)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True)
class LocalArtifact(_Artifact):
    """A file of this machine."""

    path: Path

    @property
    def size(self) -> int | None:
        """Its bytes; None when it is no longer there."""
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def content(self) -> bytes:
        """All of it. Raises OSError when it cannot be read."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class RemoteArtifact(_Artifact):
    """A file in another place; ``size`` is what the result says of it, if anything."""

    size: int | None
    storage: Storage = field(repr=False)

    def open(self) -> RemoteReader:
        """It, to be read in pieces.

        Raises:
            StorageRefused: when it may not be read or is no longer there.
            TransientError: when it cannot be read now.
        """
        return self.storage.open(self.address, field="artifact")

    def content(self) -> bytes:
        """All of it; raises as :meth:`open`."""
        return b"".join(pieces(self.open()))


Artifact = LocalArtifact | RemoteArtifact


def pieces(reader: RemoteReader) -> Iterator[bytes]:
    """What is read, a mebibyte at a time; raises what made a read fail."""
    with reader.open() as file:
        while piece := file.read(_PIECE):
            yield piece
    failure = reader.failure()
    if failure is not None:
        raise failure


def place_of(address: str) -> PurePosixPath:
    """Where a file lies by its path or its URL, in plain characters."""
    return PurePosixPath(unquote(urlsplit(address).path) if "://" in address else address)


def artifacts_of(store: StateStore, job_id: str, root: Path, storage: Storage) -> dict[str, Artifact]:
    """The files that the results of the job and of its completed tasks name, by file name.

    Those of this machine lie under ``root``, those elsewhere in the job's own directory of a remote place. Where two
    have one name, the job's own result wins over a task's, and an earlier task's over a later one's.

    Raises:
        JobNotFound: when there is no such job.
    """
    job = store.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id)
    query = TaskQuery(job_id=job_id, status=TaskStatus.COMPLETED, limit=_MOST_TASKS)
    results = [job.result_data, *(task.result_data for task in store.list_tasks(query))]
    found: dict[str, Artifact] = {}
    for result in results:
        for named in _named(result or {}):
            artifact = _remote(named, job_id, storage) if storage.is_remote(named.address) else _local(named, root)
            if artifact is not None:
                found.setdefault(artifact.name, artifact)
    return found


class _Named(NamedTuple):
    address: str
    size: int | None


def _named(value: Any) -> Iterator[_Named]:
    """Every ``path``, ``picture`` and ``stac`` in a result, however deep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _PATH_KEYS and isinstance(inner, str):
                size = value.get("size_bytes") if key == "path" else None
                yield _Named(inner, size if isinstance(size, int) else None)
            else:
                yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def _local(named: _Named, root: Path) -> LocalArtifact | None:
    """The file, if it is one within ``root`` once every link on the way is followed."""
    path = Path(named.address)
    try:
        real = path.resolve(strict=True)
        inside = real.is_file() and real.is_relative_to(root.resolve())
    except (OSError, ValueError):
        return None
    return LocalArtifact(path.name, named.address, path) if inside else None


def _remote(named: _Named, job_id: str, storage: Storage) -> RemoteArtifact | None:
    """The file, if it lies in the job's directory: sources and other jobs' outputs, which results name too, do not."""
    place = place_of(named.address)
    if place.name in {"", ".", ".."} or job_directory(job_id) not in place.parent.parts or ".." in place.parts:
        return None
    return RemoteArtifact(place.name, named.address, named.size, storage)
