"""Callbacks: received from workers (signed), and those of our own that were never acknowledged."""

from __future__ import annotations

import json
import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.problems import problem
from app.api.requests import bounded_body, query_int, run_in_threadpool
from app.composition import Application
from app.recording import record_call
from core.messages import Channel
from infrastructure.callbacks import CallbackRefused, CallbackVerifier

logger = logging.getLogger(__name__)

MAX_ENTRY_ID = 2**63 - 1  # a PostgreSQL bigint


def receive_callback(
    application: Application, verifier: CallbackVerifier, body: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, object]]:
    """Take a callback: verified, then the relay looks at once for what the worker's commit left in the outbox.

    The callback decides nothing: what it tells is already in the store, and finding it there is all there is to do.

    Raises:
        CallbackRefused: when the signature or the timestamp is wrong.
    """
    new = verifier.verify(body, headers)
    told = json.loads(body)
    task_id = told.get("task_id") if isinstance(told, dict) else None
    logger.info("callback received", extra={"action": "callback.received", "task_id": task_id, "new": new})
    if new:
        application.relay.publish(())
    return 200, {"acknowledged": True, "duplicate": not new, "task_id": task_id}


def receiving(application: Application) -> list[Route]:
    """``POST /api/task/callback``."""
    secrets = [secret.get_secret_value() for secret in application.settings.callback_secrets]
    verifier = CallbackVerifier(secrets)

    async def receive(request: Request) -> Response:
        body = await bounded_body(request, application.settings.max_body_bytes)
        try:
            status, answer = await run_in_threadpool(
                receive_callback, application, verifier, body, dict(request.headers)
            )
        except CallbackRefused as error:
            return problem(401, f"the callback is not accepted: {error}")
        return JSONResponse(answer, status_code=status)

    return [Route("/api/task/callback", receive, methods=["POST"])]


def undelivered(application: Application) -> list[Route]:
    """The callbacks that nobody acknowledged: seen, and sent again."""
    outbox = application.outbox

    async def index(request: Request) -> Response:
        limit = query_int(request, "limit", 100, low=1, high=1000)
        found = await run_in_threadpool(outbox.list_given_up, Channel.CALLBACKS, limit=limit)
        return JSONResponse({"undelivered": [dict(entry) for entry in found]})

    async def replay(request: Request) -> Response:
        entry_id = request.path_params["entry_id"]
        if entry_id > MAX_ENTRY_ID or not await run_in_threadpool(outbox.replay, Channel.CALLBACKS, [entry_id]):
            return problem(404, f"no undelivered callback has the number {entry_id}")
        await run_in_threadpool(application.relay.publish, ())
        await run_in_threadpool(record_call, application.actions, request, "replay_message", target=str(entry_id))
        return JSONResponse({"entry_id": entry_id, "replayed": True}, status_code=202)

    return [
        Route("/api/callbacks/undelivered", index, methods=["GET"]),
        Route("/api/callbacks/{entry_id:int}/replay", replay, methods=["POST"]),
    ]
