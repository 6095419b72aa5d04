"""Routes of the HTTP-triggered worker: start a task, follow it, cancel it."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.problems import problem, retry_after
from app.api.requests import json_object, query_enum, query_int, run_in_threadpool
from app.composition import Application, HttpTrigger
from app.views import task_view
from core.errors import TaskNotFound
from core.handlers import validate
from core.messages import Identifier, TaskMessage
from core.records import RunsOn, TaskQuery, TaskRecord
from core.states import TERMINAL_TASK_STATUSES, TaskStatus
from infrastructure.postgres.inbox import BacklogFull, StartRequest
from infrastructure.telemetry.context import current_traceparent

_POLL_SECONDS = 5
_BUSY_SECONDS = 10


class StartTask(BaseModel):
    """The body of ``POST /task/start``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    task_id: Identifier = Field(description="Names the task; the same id again is the same task.")
    task_type: str | None = Field(default=None, min_length=1, max_length=100, description="The handler to run.")
    params: dict[str, Any] | None = Field(default=None, description="Its parameters.")
    job_id: Identifier | None = Field(default=None, description="The job that the task belongs to.")
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="How often a task that nobody planned may fail, or die with its worker, before it is failed.",
    )
    callback_url: str | None = Field(
        default=None,
        max_length=2048,
        validation_alias=AliasChoices("callback_url", "callBackUri"),
        description="Where the end is reported (Data Factory's callBackUri is taken as well).",
    )


def routes(application: Application, trigger: HttpTrigger) -> list[Route]:
    """The routes of a worker in http_trigger mode."""
    store, machine = application.store, application.machine
    limit = application.settings.max_body_bytes

    def accept(request: StartTask, caller: str, traceparent: str | None) -> TaskRecord:
        if request.task_type is not None:
            spec = application.handlers[request.task_type]  # UnknownTaskType: 404
            if request.params is not None and spec.parameters is not None:
                validate(spec.parameters, request.params, subject=f"params of {request.task_type}")
        if request.callback_url is not None:
            trigger.callbacks.check(request.callback_url, field="callback_url")
        task = trigger.accepted.accept(
            StartRequest(
                task_id=request.task_id,
                task_type=request.task_type,
                parameters=request.params,
                job_id=request.job_id,
                callback_url=request.callback_url,
                max_attempts=request.max_attempts,
                submitted_by=caller,
                traceparent=traceparent,
            )
        )
        if task.status in (TaskStatus.PENDING, TaskStatus.QUEUED) and task.execute_after is None:
            trigger.inbox.put(
                TaskMessage(
                    task_id=task.task_id,
                    parent_job_id=task.job_id,
                    job_type=task.job_type,
                    task_type=task.task_type,
                    stage=task.stage,
                    task_index=task.task_index,
                    attempt=task.attempt,
                    traceparent=task.traceparent,
                )
            )
        return task

    async def start(request: Request) -> Response:
        if application.lifecycle.is_shutting_down:
            return problem(503, "the worker is shutting down; nothing was accepted", headers=retry_after(_BUSY_SECONDS))
        body = validate(StartTask, await json_object(request, limit=limit), subject="request body")
        try:
            task = await run_in_threadpool(accept, body, request.state.caller.name, current_traceparent())
        except BacklogFull as error:
            return problem(429, str(error), headers=retry_after(_BUSY_SECONDS))
        url = f"/task/{task.task_id}"
        return JSONResponse(
            {"task_id": task.task_id, "job_id": task.job_id, "status": task.status, "status_url": url},
            status_code=202,
            headers={"Location": url, **retry_after(_POLL_SECONDS)},
        )

    async def find(request: Request) -> TaskRecord:
        task_id = request.path_params["task_id"]
        task = await run_in_threadpool(store.get_task, task_id)
        if task is None:
            raise TaskNotFound(task_id)
        return task

    async def status(request: Request) -> Response:
        task = await find(request)
        if task.status in TERMINAL_TASK_STATUSES:
            return JSONResponse(task_view(task))
        url = f"/task/{task.task_id}"
        return JSONResponse(
            {**task_view(task), "status_url": url},
            status_code=202,
            headers={"Location": url, **retry_after(_POLL_SECONDS)},
        )

    async def cancel(request: Request) -> Response:
        task = await find(request)
        await run_in_threadpool(machine.cancel_job, task.job_id, reason=f"cancelled by {request.state.caller.name}")
        url = f"/task/{task.task_id}"
        return JSONResponse(
            {**task_view(await find(request)), "status_url": url},
            status_code=202,
            headers={"Location": url, **retry_after(_POLL_SECONDS)},
        )

    async def index(request: Request) -> Response:
        query = TaskQuery(
            status=query_enum(request, "status", TaskStatus),
            runs_on=RunsOn.DOCKER,
            offset=query_int(request, "offset", 0, low=0, high=10_000_000),
            limit=query_int(request, "limit", 100, low=1, high=1000),
        )
        found = await run_in_threadpool(store.list_tasks, query)
        return JSONResponse({"tasks": [task_view(task) for task in found]})

    async def queue_status(_: Request) -> Response:
        figures = await run_in_threadpool(trigger.accepted.figures)
        return JSONResponse({**figures, "max_backlog": application.settings.max_backlog})

    return [
        Route("/task/start", start, methods=["POST"]),
        Route("/task/{task_id}", status, methods=["GET"]),
        Route("/task/{task_id}", cancel, methods=["DELETE"]),
        Route("/task/{task_id}/cancel", cancel, methods=["POST"]),
        Route("/tasks", index, methods=["GET"]),
        Route("/queue/status", queue_status, methods=["GET"]),
    ]
