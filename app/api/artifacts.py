"""Files that a job made, listed and served: only those that its results name, only from the output directory."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from app.api.problems import problem
from app.api.requests import run_in_threadpool
from app.composition import Application
from core.errors import JobNotFound
from core.ports import StateStore
from core.records import TaskQuery
from core.states import TaskStatus

_PATH_KEYS = frozenset({"path", "picture", "stac"})
_MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".vrt": "application/xml",
    ".geojson": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
}
_SHOWN_INLINE = frozenset({"image/png", "application/json", "application/geo+json"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=60",
}
_MOST_TASKS = 1000


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a job's results name; ``name`` is what it is asked for by."""

    name: str
    path: Path

    @property
    def media_type(self) -> str:
        """By the file's ending."""
        return (
            _MEDIA_TYPES.get(self.path.suffix.lower())
            or mimetypes.guess_type(self.path.name)[0]
            or "application/octet-stream"
        )


def artifacts_of(store: StateStore, job_id: str, root: Path) -> dict[str, Artifact]:
    """The files under ``root`` that the results of the job and of its completed tasks name, by file name.

    Where two have one name, the job's own result wins over a task's, and an earlier task's over a later one's.

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
        for text in _paths(result or {}):
            path = Path(text)
            if path.name not in found and _lies_under(path, root):
                found[path.name] = Artifact(path.name, path)
    return found


def _paths(value: Any) -> Iterator[str]:
    """Every ``path``, ``picture`` and ``stac`` in a result, however deep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _PATH_KEYS and isinstance(inner, str):
                yield inner
            else:
                yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def _lies_under(path: Path, root: Path) -> bool:
    """Whether ``path`` is a file within ``root`` once every link on the way is followed."""
    try:
        real = path.resolve(strict=True)
        return real.is_file() and real.is_relative_to(root.resolve())
    except (OSError, ValueError):
        return False


def routes(application: Application) -> list[Route]:
    """``GET /api/jobs/{job_id}/artifacts`` and ``…/artifacts/{name}``."""
    store, root = application.store, application.settings.output_dir

    async def index(request: Request) -> Response:
        job_id = request.path_params["job_id"]
        found = await run_in_threadpool(artifacts_of, store, job_id, root)
        listed = [
            {
                "name": artifact.name,
                "media_type": artifact.media_type,
                "size_bytes": artifact.path.stat().st_size,
                "url": f"/api/jobs/{job_id}/artifacts/{quote(artifact.name, safe='')}",
            }
            for artifact in found.values()
        ]
        return JSONResponse({"artifacts": listed})

    async def serve(request: Request) -> Response:
        job_id, name = request.path_params["job_id"], request.path_params["name"]
        found = await run_in_threadpool(artifacts_of, store, job_id, root)
        artifact = found.get(name)
        if artifact is None:
            return problem(404, f"job {job_id} has no artifact {name!r}", known=sorted(found))
        inline = artifact.media_type in _SHOWN_INLINE
        return FileResponse(
            artifact.path,
            media_type=artifact.media_type,
            filename=artifact.name,
            content_disposition_type="inline" if inline else "attachment",
            headers=_HEADERS,
        )

    return [
        Route("/api/jobs/{job_id}/artifacts", index, methods=["GET"]),
        Route("/api/jobs/{job_id}/artifacts/{name}", serve, methods=["GET"]),
    ]
