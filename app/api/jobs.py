"""Routes of jobs: submit, status, list, cancel, retry, types."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.requests import json_object, query_bool, query_datetime, query_enum, query_int, run_in_threadpool
from app.composition import Application
from app.recording import record_call
from app.views import attempt_view, job_status_view, job_view, task_view
from core.errors import Fault, InvalidInput, JobNotFound, TaskNotFound
from core.jobs import JobRegistry
from core.records import JobQuery, TaskQuery
from core.states import JobStatus, TaskStatus
from infrastructure.telemetry.context import current_traceparent


def routes(application: Application) -> list[Route]:
    """The routes under ``/api/jobs``."""
    machine, store = application.machine, application.store
    limit = application.settings.max_body_bytes

    async def submit(request: Request) -> Response:
        parameters = await json_object(request, limit=limit, optional=True)
        rerun = query_bool(request, "force")
        submitted = await run_in_threadpool(
            machine.submit_job,
            request.path_params["job_type"],
            parameters,
            rerun=rerun,
            submitted_by=request.state.caller.name,
            traceparent=current_traceparent(),
        )
        url = f"/api/jobs/status/{submitted.job.job_id}"
        answer = {**job_view(submitted.job), "created": submitted.created, "status_url": url}
        return JSONResponse(answer, status_code=202 if submitted.created else 200, headers={"Location": url})

    async def status(request: Request) -> Response:
        job_id = request.path_params["job_id"]

        def view() -> dict[str, Any]:
            job = store.get_job(job_id)
            if job is None:
                raise JobNotFound(job_id)
            return job_status_view(store, job)

        return JSONResponse(await run_in_threadpool(view))

    async def index(request: Request) -> Response:
        size = query_int(request, "limit", 50, low=1, high=500)
        query = JobQuery(
            status=query_enum(request, "status", JobStatus),
            job_type=request.query_params.get("job_type"),
            created_after=query_datetime(request, "created_after"),
            created_before=query_datetime(request, "created_before"),
            id_prefix=request.query_params.get("id"),
            before=request.query_params.get("before"),
            limit=size,
        )
        jobs = await run_in_threadpool(store.list_jobs, query)
        following = jobs[-1].job_id if len(jobs) == size else None
        return JSONResponse({"jobs": [job_view(job) for job in jobs], "next": following})

    async def tasks(request: Request) -> Response:
        query = TaskQuery(
            job_id=request.path_params["job_id"],
            stage=query_int(request, "stage", 0, low=0, high=1000) or None,
            status=query_enum(request, "status", TaskStatus),
            offset=query_int(request, "offset", 0, low=0, high=10_000_000),
            limit=query_int(request, "limit", 100, low=1, high=1000),
        )
        found = await run_in_threadpool(store.list_tasks, query)
        if not found and await run_in_threadpool(store.get_job, query.job_id or "") is None:
            raise JobNotFound(query.job_id or "")
        return JSONResponse({"tasks": [task_view(task) for task in found]})

    async def attempts(request: Request) -> Response:
        task_id = request.path_params["task_id"]
        task = await run_in_threadpool(store.get_task, task_id)
        if task is None:
            raise TaskNotFound(task_id)
        history = await run_in_threadpool(store.list_attempts, task_id)
        return JSONResponse({**task_view(task), "attempts": [attempt_view(attempt) for attempt in history]})

    async def cancel(request: Request) -> Response:
        reason = f"cancelled by {request.state.caller.name}"
        job = await run_in_threadpool(machine.cancel_job, request.path_params["job_id"], reason=reason)
        await run_in_threadpool(record_call, application.actions, request, "cancel", job_id=job.job_id)
        return JSONResponse(job_view(job))

    async def retry(request: Request) -> Response:
        body = await json_object(request, limit=limit, optional=True)
        grain = {name: body.pop(name, None) for name in ("from_stage", "from_checkpoint")}
        faults = [Fault(name, "is not known here") for name in body]
        faults += [
            Fault(name, "must be a whole number", value)
            for name, value in grain.items()
            if value is not None and (isinstance(value, bool) or not isinstance(value, int))
        ]
        if faults:
            raise InvalidInput("request body", faults)
        job = await run_in_threadpool(
            machine.retry_job, request.path_params["job_id"], **grain, submitted_by=request.state.caller.name
        )
        details = {"run": job.run, **{name: value for name, value in grain.items() if value is not None}}
        facts = {"job_id": job.replay_of, "target": job.job_id, "details": details}
        await run_in_threadpool(record_call, application.actions, request, "replay", **facts)
        url = f"/api/jobs/status/{job.job_id}"
        return JSONResponse({**job_view(job), "status_url": url}, status_code=202, headers={"Location": url})

    async def types(request: Request) -> Response:  # noqa: ARG001 - Starlette's signature
        return JSONResponse({"job_types": job_types(application.jobs)})

    return [
        Route("/api/jobs", index, methods=["GET"]),
        Route("/api/jobs/types", types, methods=["GET"]),
        Route("/api/jobs/submit/{job_type}", submit, methods=["POST"]),
        Route("/api/jobs/status/{job_id}", status, methods=["GET"]),
        Route("/api/jobs/{job_id}/tasks", tasks, methods=["GET"]),
        Route("/api/jobs/{job_id}/cancel", cancel, methods=["POST"]),
        Route("/api/jobs/{job_id}/retry", retry, methods=["POST"]),
        Route("/api/tasks/{task_id}", attempts, methods=["GET"]),
    ]


def job_types(jobs: JobRegistry) -> list[dict[str, Any]]:
    """Every job type with its stages and the JSON Schema of its parameters."""
    aliases: dict[str, list[str]] = {}
    for alias, name in jobs.aliases.items():
        aliases.setdefault(name, []).append(alias)
    return [
        {
            "job_type": name,
            "aliases": aliases.get(name, []),
            "description": definition.description,
            "failure_policy": definition.failure_policy,
            "stages": [
                {
                    "number": stage.number,
                    "name": stage.name,
                    "task_type": stage.task_type,
                    "runs_on": stage.runs_on,
                    "max_attempts": stage.max_attempts,
                }
                for stage in definition.stages
            ],
            "parameters": definition.parameters.model_json_schema(),
        }
        for name, definition in sorted(jobs.items())
    ]
