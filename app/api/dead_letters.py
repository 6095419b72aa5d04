"""Routes of dead letters, where the mode has queues: list, show, replay, purge."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.requests import query_int, run_in_threadpool
from app.composition import Application
from app.dead_letters import DeadLetters
from app.recording import record_call
from core.errors import DeadLetterNotFound

_GREATEST = 2**63 - 1


def routes(application: Application, letters: DeadLetters) -> list[Route]:
    """The routes under ``/api/dead-letters``."""

    async def kept(request: Request, action: str, queue: str, which: int | str) -> None:
        await run_in_threadpool(record_call, application.actions, request, action, target=f"{queue} {which}")

    async def index(request: Request) -> Response:
        found = await run_in_threadpool(
            letters.list_letters,
            request.query_params.get("queue"),
            limit=query_int(request, "limit", 100, low=1, high=1000),
            after=query_int(request, "after", 0, low=0, high=10**11),
        )
        return JSONResponse({"dead_letters": found})

    async def show(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(letters.show, *_letter(request)))

    async def remove(request: Request) -> Response:
        await run_in_threadpool(letters.remove, *_letter(request))
        await kept(request, "remove_dead_letter", *_letter(request))
        return Response(status_code=204)

    async def replay(request: Request) -> Response:
        answer = await run_in_threadpool(letters.replay, *_letter(request))
        await kept(request, "replay_dead_letter", *_letter(request))
        await run_in_threadpool(application.relay.publish, ())
        return JSONResponse(answer, status_code=202)

    async def replay_all(request: Request) -> Response:
        answers = await run_in_threadpool(letters.replay_all, request.path_params["queue"])
        await kept(request, "replay_dead_letter", request.path_params["queue"], "all")
        await run_in_threadpool(application.relay.publish, ())
        return JSONResponse({"replayed": answers}, status_code=202)

    async def purge(request: Request) -> Response:
        purged = await run_in_threadpool(letters.purge, request.path_params["queue"])
        await kept(request, "purge_dead_letters", request.path_params["queue"], "all")
        return JSONResponse({"purged": purged})

    return [
        Route("/api/dead-letters", index, methods=["GET"]),
        Route("/api/dead-letters/{queue}", purge, methods=["DELETE"]),
        Route("/api/dead-letters/{queue}/replay", replay_all, methods=["POST"]),
        Route("/api/dead-letters/{queue}/{number:int}", show, methods=["GET"]),
        Route("/api/dead-letters/{queue}/{number:int}", remove, methods=["DELETE"]),
        Route("/api/dead-letters/{queue}/{number:int}/replay", replay, methods=["POST"]),
    ]


def _letter(request: Request) -> tuple[str, int]:
    queue, number = request.path_params["queue"], request.path_params["number"]
    if number > _GREATEST:
        raise DeadLetterNotFound(queue, number)
    return queue, number
