"""The OpenAPI document, built from the registries and the routes, so that it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from app.api.tasks import StartTask
from app.composition import Application
from app.process_report import version
from app.role import Role
from core.states import JobStatus, TaskStatus

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_JOB_ID = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "SHA-256 of job type and canonical parameters (later runs have ids of their own)",
}
_TIMES = ("created_at", "started_at", "finished_at", "updated_at")
_NULLABLE_TIME = {"type": ["string", "null"], "format": "date-time"}

_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457 problem document",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
            "known": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Fault": {
        "type": "object",
        "required": ["field", "message"],
        "properties": {"field": {"type": "string"}, "message": {"type": "string"}, "given": {}},
    },
    "Error": {
        "type": ["object", "null"],
        "required": ["type", "message", "retryable"],
        "properties": {
            "type": {"type": "string"},
            "message": {"type": "string"},
            "retryable": {"type": "boolean"},
            "code": {"type": ["string", "null"]},
            "cause": {"type": ["string", "null"]},
        },
    },
    "Job": {
        "type": "object",
        "required": ["job_id", "job_type", "status", "stage", "total_stages", "parameters"],
        "properties": {
            "job_id": {"type": "string"},
            "job_type": {"type": "string"},
            "status": {"enum": list(JobStatus)},
            "stage": {"type": "integer"},
            "total_stages": {"type": "integer"},
            "run": {"type": "integer"},
            "replay_of": {"type": ["string", "null"]},
            "parameters": {"type": "object"},
            "failure_policy": {"enum": ["fail_fast", "collect"]},
            "result": {"type": ["object", "null"]},
            "error": {"$ref": "#/components/schemas/Error"},
            "submitted_by": {"type": ["string", "null"]},
            **dict.fromkeys(_TIMES, _NULLABLE_TIME),
        },
    },
    "Task": {
        "type": "object",
        "required": ["task_id", "job_id", "task_type", "stage", "status", "attempt"],
        "properties": {
            "task_id": {"type": "string"},
            "job_id": {"type": "string"},
            "task_type": {"type": "string"},
            "stage": {"type": "integer"},
            "task_index": {"type": "integer"},
            "status": {"enum": list(TaskStatus)},
            "attempt": {"type": "integer"},
            "progress": {"type": ["object", "null"]},
            "result": {"type": ["object", "null"]},
            "error": {"$ref": "#/components/schemas/Error"},
        },
    },
}


def openapi_document(application: Application) -> dict[str, Any]:
    """OpenAPI 3.1 of this process's routes."""
    paths = _probes()
    schemas = dict(_SCHEMAS)
    if Role.ORCHESTRATOR in application.role:
        paths |= _jobs(application, schemas) | _receiving()
        if application.settings.enable_test_endpoints:
            paths |= _tests()
    if Role.ORCHESTRATOR in application.role or application.trigger is not None:
        paths |= _undelivered()
    if application.trigger is not None:
        paths |= _tasks()
    if application.dead_letters is not None:
        paths |= _dead_letters(application.dead_letters.queues, schemas)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "geoworker",
            "version": version(),
            "description": "Jobs of long geospatial tasks: submit, follow, cancel, retry.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "entra": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }
    settings = application.settings
    if settings.has_authentication:
        document["security"] = [
            {name: []} for name, on in (("apiKey", settings.api_keys), ("entra", settings.entra_tenant_id)) if on
        ]
        for path in ("/livez", "/readyz", "/health"):
            document["paths"][path]["get"]["security"] = []
    return document


def _probes() -> dict[str, Any]:
    free = {"type": "object"}
    return {
        "/livez": {"get": _operation("Whether the process is alive", {200: free}, (503,))},
        "/readyz": {"get": _operation("Whether the process should get work", {200: free}, problems=(503,))},
        "/health": {"get": _operation("Health in detail", {200: free, 503: free})},
        "/metrics": {
            "get": {
                "summary": "Metrics in Prometheus' text form",
                "responses": {
                    "200": {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
                    **{str(status): _problem(status) for status in (401, 403)},
                },
            }
        },
        "/openapi.json": {"get": _operation("This document", {200: free}, problems=(401,))},
    }


def _jobs(application: Application, schemas: dict[str, Any]) -> dict[str, Any]:
    job = {"$ref": "#/components/schemas/Job"}
    task = {"$ref": "#/components/schemas/Task"}
    page = {
        "type": "object",
        "required": ["jobs", "next"],
        "properties": {"jobs": {"type": "array", "items": job}, "next": {"type": ["string", "null"]}},
    }
    task_page = {
        "type": "object",
        "required": ["tasks"],
        "properties": {"tasks": {"type": "array", "items": task}},
    }
    paths: dict[str, Any] = {
        "/api/jobs": {
            "get": _operation(
                "Jobs, newest first",
                {200: page},
                problems=(401, 422, 503),
                parameters=[
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
                    _query("status", {"enum": list(JobStatus)}),
                    _query("job_type", {"type": "string"}),
                    _query("created_after", {"type": "string", "format": "date-time"}),
                    _query("created_before", {"type": "string", "format": "date-time"}),
                    _query("id", {"type": "string"}, "Start of a job id"),
                    _query("before", {"type": "string"}, "The `next` of the page before"),
                ],
            )
        },
        "/api/jobs/types": {
            "get": _operation("Job types and the JSON Schemas of their parameters", {200: {"type": "object"}}, (401,))
        },
        "/api/jobs/status/{job_id}": {
            "get": _operation("A job, its stages, progress and errors", {200: job}, (401, 404, 503), [_JOB_ID])
        },
        "/api/jobs/{job_id}/tasks": {
            "get": _operation(
                "A job's tasks",
                {200: task_page},
                (401, 404, 422, 503),
                [
                    _JOB_ID,
                    _query("stage", {"type": "integer", "minimum": 0, "maximum": 1000}),
                    _query("status", {"enum": list(TaskStatus)}),
                    _query("offset", {"type": "integer", "minimum": 0, "maximum": 10_000_000}),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
                ],
            )
        },
        **_artifacts(),
        "/api/jobs/{job_id}/cancel": {"post": _operation("Cancel a job", {200: job}, (401, 404, 409, 503), [_JOB_ID])},
        "/api/jobs/{job_id}/retry": {
            "post": _operation(
                "Run an ended job again: its failed tasks, everything from a stage on, or tasks from a checkpoint on",
                {202: job},
                (401, 404, 409, 413, 415, 422, 503),
                [_JOB_ID],
                body={
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "from_stage": {"type": "integer", "minimum": 1, "maximum": 1000},
                        "from_checkpoint": {"type": "integer", "minimum": 0, "maximum": 1000},
                    },
                },
            )
        },
        "/api/tasks/{task_id}": {
            "get": _operation(
                "A task with the history of its attempts",
                {200: task},
                (401, 404, 503),
                [{"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}],
            )
        },
    }
    for name, definition in sorted(application.jobs.items()):
        paths[f"/api/jobs/submit/{name}"] = {
            "post": _operation(
                f"Submit: {definition.description}",
                {200: job, 202: job},
                (401, 413, 415, 422, 503),
                [_query("force", {"type": "boolean", "default": False}, "Run again although the job is known")],
                body=_parameters(name, definition.parameters, schemas),
            )
        }
    return paths


def _artifacts() -> dict[str, Any]:
    """The routes of the files that a job made."""
    listed = {
        "type": "object",
        "required": ["artifacts"],
        "properties": {
            "artifacts": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "media_type", "size_bytes", "url"],
                    "properties": {
                        "name": {"type": "string"},
                        "media_type": {"type": "string"},
                        "size_bytes": {"type": ["integer", "null"]},
                        "url": {"type": "string"},
                    },
                },
            }
        },
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    file = {"description": "The file", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        "/api/jobs/{job_id}/artifacts": {
            "get": _operation("Files that a job's results name", {200: listed}, (401, 404, 503), [_JOB_ID])
        },
        "/api/jobs/{job_id}/artifacts/{name}": {
            "get": {
                "summary": "A file that a job's results name, whole or by range",
                "parameters": [_JOB_ID, name],
                "responses": {
                    "200": file,
                    "206": file,
                    **{str(status): _problem(status) for status in (401, 403, 404, 503)},
                },
            }
        },
    }


def _parameters(name: str, model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """A parameter model's JSON Schema; its own definitions become components."""
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{name}-{{model}}")
    for part, definition in schema.pop("$defs", {}).items():
        schemas[f"{name}-{part}"] = definition
    return schema


def _tasks() -> dict[str, Any]:
    """The routes of the HTTP-triggered worker."""
    task = {"$ref": "#/components/schemas/Task"}
    accepted = {
        "type": "object",
        "required": ["task_id", "job_id", "status", "status_url"],
        "properties": {
            "task_id": {"type": "string"},
            "job_id": {"type": "string"},
            "status": {"enum": list(TaskStatus)},
            "status_url": {"type": "string"},
        },
    }
    task_id = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}
    body = StartTask.model_json_schema(by_alias=False)
    cancel = _operation("Cancel the task's job", {202: task}, (401, 404, 409, 503), [task_id])
    return {
        "/task/start": {
            "post": _operation(
                "Accept a task: committed before the answer; the same id again is the same task",
                {202: accepted},
                (401, 404, 409, 413, 415, 422, 429, 503),
                body=body,
            )
        },
        "/task/{task_id}": {
            "get": _operation(
                "A task: 202 with Retry-After while it runs, 200 when it has ended",
                {200: task, 202: task},
                (401, 404, 503),
                [task_id],
            ),
            "delete": cancel,
        },
        "/task/{task_id}/cancel": {"post": cancel},
        "/tasks": {
            "get": _operation(
                "Docker tasks",
                {200: {"type": "object", "required": ["tasks"]}},
                (401, 422, 503),
                [
                    _query("status", {"enum": list(TaskStatus)}),
                    _query("offset", {"type": "integer", "minimum": 0, "maximum": 10_000_000}),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
                ],
            )
        },
        "/queue/status": {"get": _operation("Accepted tasks that wait or run", {200: {"type": "object"}}, (401, 503))},
    }


def _receiving() -> dict[str, Any]:
    """The route that workers report ended tasks to."""
    acknowledged = {
        "type": "object",
        "required": ["acknowledged", "duplicate"],
        "properties": {
            "acknowledged": {"type": "boolean"},
            "duplicate": {"type": "boolean"},
            "task_id": {"type": ["string", "null"]},
        },
    }
    operation = _operation(
        "Receive a signed callback (Standard Webhooks)", {200: acknowledged}, (401, 413), body={"type": "object"}
    )
    return {"/api/task/callback": {"post": operation | {"security": []}}}


def _undelivered() -> dict[str, Any]:
    """The routes of callbacks that nobody acknowledged."""
    entry = {
        "type": "object",
        "required": ["entry_id", "task_id", "tries"],
        "properties": {
            "entry_id": {"type": "integer"},
            "task_id": {"type": "string"},
            "job_id": {"type": "string"},
            "receiver": {"type": ["string", "null"], "description": "Scheme and host of the callback's address"},
            "tries": {"type": "integer", "description": "Since it was written or last sent again"},
            "replays": {"type": "integer", "description": "How often it was sent again on request"},
            "last_error": {"type": ["string", "null"]},
            "created_at": {"type": "string"},
            "given_up_at": {"type": "string"},
        },
    }
    found = {
        "type": "object",
        "required": ["undelivered"],
        "properties": {"undelivered": {"type": "array", "items": entry}},
    }
    entry_id = {"name": "entry_id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
    return {
        "/api/callbacks/undelivered": {
            "get": _operation("Callbacks that were given up undelivered", {200: found}, (401, 422, 503), [limit])
        },
        "/api/callbacks/{entry_id}/replay": {
            "post": _operation(
                "Send an undelivered callback again", {202: {"type": "object"}}, (401, 404, 503), [entry_id]
            )
        },
    }


def _dead_letters(queues: Sequence[str], schemas: dict[str, Any]) -> dict[str, Any]:
    """The routes of dead letters, where the mode has queues."""
    nullable = {"type": ["string", "null"]}
    schemas["DeadLetter"] = {
        "type": "object",
        "required": ["queue", "number", "reason", "age_seconds", "task_id", "job_id"],
        "properties": {
            "queue": {"type": "string"},
            "number": {"type": "integer"},
            "reason": nullable,
            "description": nullable,
            "message_id": nullable,
            "enqueued_at": _NULLABLE_TIME,
            "age_seconds": {"type": ["number", "null"]},
            "delivery_count": {"type": "integer"},
            "message_type": nullable,
            "task_id": nullable,
            "task_type": nullable,
            "job_id": nullable,
            "state": {**nullable, "description": "What the store says of the task or job now"},
        },
    }
    letter = {"$ref": "#/components/schemas/DeadLetter"}
    answer = {
        "type": "object",
        "required": ["queue", "number", "replayed", "detail"],
        "properties": {
            "queue": {"type": "string"},
            "number": {"type": "integer"},
            "replayed": {"type": "boolean"},
            "detail": {"type": "string"},
        },
    }
    queue = {"name": "queue", "in": "path", "required": True, "schema": {"enum": list(queues)}}
    number = {
        "name": "number",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    }
    listed = {
        "type": "object",
        "required": ["dead_letters"],
        "properties": {"dead_letters": {"type": "array", "items": letter}},
    }
    replayed = {"type": "object", "properties": {"replayed": {"type": "array", "items": answer}}}
    purged = {"type": "object", "properties": {"purged": {"type": "integer"}}}
    return {
        "/api/dead-letters": {
            "get": _operation(
                "Dead letters with reason, task, job and age",
                {200: listed},
                (401, 422, 503),
                [
                    _query("queue", {"enum": list(queues)}),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
                    _query(
                        "after", {"type": "integer", "minimum": 0, "maximum": 10**11}, "Number of the last one seen"
                    ),
                ],
            )
        },
        "/api/dead-letters/{queue}": {
            "delete": _operation("Purge a queue's dead letters", {200: purged}, (401, 422, 503), [queue])
        },
        "/api/dead-letters/{queue}/replay": {
            "post": _operation("Replay every dead letter of a queue", {202: replayed}, (401, 422, 503), [queue])
        },
        "/api/dead-letters/{queue}/{number}": {
            "get": _operation("A dead letter with its body", {200: letter}, (401, 404, 422, 503), [queue, number]),
            "delete": _operation("Purge a dead letter", {204: None}, (401, 404, 422, 503), [queue, number]),
        },
        "/api/dead-letters/{queue}/{number}/replay": {
            "post": _operation(
                "Put what a dead letter is about back through the store",
                {202: answer},
                (401, 404, 409, 422, 503),
                [queue, number],
            )
        },
    }


def _tests() -> dict[str, Any]:
    """The test routes."""
    from app.api.test_endpoints import ExecuteHandler

    free: dict[str, Any] = {"type": "object"}
    execution = {
        "type": "object",
        "required": [
            "success",
            "task_type",
            "elapsed_seconds",
            "handler_result",
            "lifecycle",
            "captured_messages",
            "state_snapshot",
        ],
        "properties": {
            "success": {"type": "boolean"},
            "task_type": {"type": "string"},
            "elapsed_seconds": {"type": "number"},
            "handler_result": free,
            "lifecycle": free,
            "captured_messages": {"type": "array", "items": free},
            "state_snapshot": free,
        },
    }
    task_type = {"name": "task_type", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/api/test/execute/{task_type}": {
            "post": _operation(
                "Run a handler on mock infrastructure: 200 when it succeeded, 500 when it failed",
                {200: execution, 500: execution},
                (401, 404, 413, 415, 422, 429),
                [task_type],
                body=ExecuteHandler.model_json_schema(),
            )
        },
        "/api/test/state": {"get": _operation("The state that past executions left", {200: free}, (401,))},
        "/api/test/messages": {"get": _operation("The messages that they would have sent", {200: free}, (401,))},
        "/api/test/reset": {"post": _operation("Forget past executions", {200: free}, (401,))},
    }


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": _PROBLEMS[status],
        "content": {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _query(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _operation(
    summary: str,
    answers: Mapping[int, dict[str, Any] | None],
    problems: tuple[int, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": summary} | ({} if schema is None else {"content": {_JSON: {"schema": schema}}})
        for status, schema in answers.items()
    }
    refusals = (*problems, 403) if 401 in problems else problems
    responses |= {str(status): _problem(status) for status in sorted(refusals)}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": False, "content": {_JSON: {"schema": body}}}
    return operation


_PROBLEMS = {
    401: "Credentials are missing or wrong",
    403: "The caller is none of those that may call",
    404: "No such thing",
    409: "The state does not allow it",
    413: "The body is too large",
    415: "The body is no JSON",
    429: "As many accepted tasks wait as may; see Retry-After",
    422: "Something in the request is wrong; every fault is named",
    503: "The state store cannot be reached; nothing was accepted",
}
