"""Files that a job made, listed and served."""

from __future__ import annotations

from typing import assert_never
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app.api.problems import problem
from app.api.requests import run_in_threadpool
from app.artifacts import Artifact, LocalArtifact, RemoteArtifact, artifacts_of, pieces
from app.composition import Application
from core.errors import TransientError
from core.storage import StorageRefused

_SHOWN_INLINE = frozenset({"image/png", "application/json", "application/geo+json"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=60",
}


def routes(application: Application) -> list[Route]:
    """``GET /api/jobs/{job_id}/artifacts`` and ``…/artifacts/{name}``."""

    def found_of(job_id: str) -> dict[str, Artifact]:
        return artifacts_of(application.store, job_id, application.settings.output_dir, application.storage)

    async def index(request: Request) -> Response:
        job_id = request.path_params["job_id"]
        found = await run_in_threadpool(found_of, job_id)
        listed = [
            {
                "name": artifact.name,
                "media_type": artifact.media_type,
                "size_bytes": artifact.size,
                "url": f"/api/jobs/{job_id}/artifacts/{quote(artifact.name, safe='')}",
            }
            for artifact in found.values()
        ]
        return JSONResponse({"artifacts": listed})

    async def serve(request: Request) -> Response:
        job_id, name = request.path_params["job_id"], request.path_params["name"]
        found = await run_in_threadpool(found_of, job_id)
        match found.get(name):
            case None:
                return problem(404, f"job {job_id} has no artifact {name!r}", known=sorted(found))
            case LocalArtifact() as local:
                return FileResponse(
                    local.path,
                    media_type=local.media_type,
                    filename=local.name,
                    content_disposition_type=_disposition(local),
                    headers=_HEADERS,
                )
            case RemoteArtifact() as remote:
                return await _remote(remote)
            case other:
                assert_never(other)

    return [
        Route("/api/jobs/{job_id}/artifacts", index, methods=["GET"]),
        Route("/api/jobs/{job_id}/artifacts/{name}", serve, methods=["GET"]),
    ]


async def _remote(artifact: RemoteArtifact) -> Response:
    try:
        reader = await run_in_threadpool(artifact.open)
    except StorageRefused as error:
        return problem(404, str(error))
    except TransientError as error:
        return problem(503, str(error))
    headers = {
        **_HEADERS,
        "Content-Length": str(reader.size),
        "Content-Disposition": f"{_disposition(artifact)}; filename*=UTF-8''{quote(artifact.name, safe='')}",
    }
    return StreamingResponse(pieces(reader), media_type=artifact.media_type, headers=headers)


def _disposition(artifact: Artifact) -> str:
    return "inline" if artifact.media_type in _SHOWN_INLINE else "attachment"
