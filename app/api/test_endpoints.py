"""``/api/test/*``: run one handler on mock infrastructure over HTTP, and look at what it left behind.

Served only where ``ENABLE_TEST_ENDPOINTS`` is on. Nothing here touches the process's own database, queues or output
directory. What is kept of past executions is kept in this process's memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.auth import ANONYMOUS
from app.api.problems import problem, retry_after
from app.api.requests import json_object, run_in_threadpool
from app.composition import Application
from app.storage import trial_storage
from app.trial import Trial, try_handler
from core.errors import Fault, InvalidInput
from core.handlers import HandlerSpec, validate
from infrastructure.storage.signatures import lifted

_KEPT = 20
_AT_ONCE = 2
_OUTPUT_PARAMETERS = ("output_dir",)


class ExecuteHandler(BaseModel):
    """Body of ``POST /api/test/execute/{task_type}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    params: dict[str, Any] = Field(default_factory=dict, description="The handler's parameters.")
    job_type: str = Field(
        default="test_job", min_length=1, max_length=100, description="What the handler is told of its job."
    )


class Turnstile:
    """Lets each caller in so many times a minute, and so many callers at a time."""

    def __init__(self, per_minute: int, at_once: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._free = threading.BoundedSemaphore(at_once)

    def enter(self, caller: str) -> float | None:
        """None when the caller may go on (and must then :meth:`leave`), else the seconds to wait."""
        if not self._free.acquire(blocking=False):
            return 1.0
        if self._limiter.hit(self._item, caller):
            return None
        self._free.release()
        window = self._limiter.get_window_stats(self._item, caller)
        return max(1.0, window.reset_time - time.time())

    def leave(self) -> None:
        """The caller is done."""
        self._free.release()


def routes(application: Application) -> list[Route]:
    """The test routes of a process."""
    settings = application.settings
    turnstile = Turnstile(settings.test_requests_per_minute, _AT_ONCE)
    trials: deque[Trial] = deque(maxlen=_KEPT)

    async def execute(request: Request) -> Response:
        refusal = _refused(request)
        if refusal is not None:
            return refusal
        wait = turnstile.enter(request.state.caller.name)
        if wait is not None:
            return problem(429, "too many test executions; try again later", headers=retry_after(wait))
        try:
            spec = application.handlers[request.path_params["task_type"]]
            body = validate(
                ExecuteHandler,
                await json_object(request, limit=settings.max_body_bytes, optional=True),
                subject="request body",
            )
            params, signed = lifted(body.params)
            _check(spec, params)
            trial = await run_in_threadpool(
                partial(
                    try_handler,
                    spec.task_type,
                    params,
                    body.job_type,
                    time_limit=settings.test_time_limit_seconds,
                    storage=trial_storage(settings, signed).as_dict(),
                )
            )
        finally:
            turnstile.leave()
        trials.append(trial)
        answer = {"success": trial.success, "task_type": spec.task_type, **asdict(trial)}
        return JSONResponse(answer, status_code=200 if trial.success else 500)

    async def state(request: Request) -> Response:
        if not trials:
            return _refused(request) or JSONResponse({"message": "No test state available"})
        return _refused(request) or JSONResponse(_together([trial.state_snapshot for trial in trials]))

    async def messages(request: Request) -> Response:
        captured = [message for trial in trials for message in trial.captured_messages]
        if not captured:
            return _refused(request) or JSONResponse({"message": "No messages captured"})
        return _refused(request) or JSONResponse({"messages": captured})

    async def reset(request: Request) -> Response:
        refusal = _refused(request)
        if refusal is not None:
            return refusal
        trials.clear()
        return JSONResponse({"message": "Test state reset"})

    return [
        Route("/api/test/execute/{task_type}", execute, methods=["POST"]),
        Route("/api/test/state", state, methods=["GET"]),
        Route("/api/test/messages", messages, methods=["GET"]),
        Route("/api/test/reset", reset, methods=["POST"]),
    ]


def _refused(request: Request) -> Response | None:
    """Handlers are code: nobody runs them here without a key, not even on loopback."""
    if request.state.caller == ANONYMOUS:
        return problem(
            401,
            "test endpoints need a key even on loopback: set API_KEYS and send one as X-Api-Key",
            headers={"WWW-Authenticate": 'ApiKey realm="geoworker"'},
        )
    return None


def _check(spec: HandlerSpec, params: Mapping[str, Any]) -> None:
    """Refuse what the handler would, and every place to write to but the execution's own.

    Raises:
        InvalidInput: naming every fault.
    """
    faults = [
        Fault(
            f"params.{name}",
            "is not taken here: the files of a test execution go to a directory of its own, which goes with it",
            params[name],
        )
        for name in _OUTPUT_PARAMETERS
        if params.get(name) is not None
    ]
    if faults:
        raise InvalidInput("request body", faults)
    if spec.parameters is not None:
        validate(spec.parameters, params, subject=f"parameters of {spec.task_type}")


def _together(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Snapshots of several executions as one; a later one of the same task wins."""
    together: dict[str, Any] = {"jobs": {}, "tasks": {}, "stage_stats": {}}
    for snapshot in snapshots:
        for name, rows in snapshot.items():
            together[name] |= rows
    return together
