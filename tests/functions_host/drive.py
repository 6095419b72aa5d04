"""Drives Microsoft's Functions worker library over the packaged app, as the host would; prints what came back as JSON.

Run in a process of its own, with the app's settings in the environment: ``python -m tests.functions_host.drive``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import azure_functions_runtime as worker

from tests.functions_host.wire import Message, StatusResult, invocation, request

PACKAGE = Path(__file__).parents[2] / "deploy" / "function_app"


async def drive() -> dict[str, Any]:
    sys.path.append(str(PACKAGE))  # as the worker's shell does
    worker.start_threadpool_executor()
    init = await worker.worker_init_request(
        request(worker_init_request=Message(capabilities={}, function_app_directory=str(PACKAGE)))
    )
    expect_success(init)
    metadata = await worker.functions_metadata_request(request())
    ids: dict[str, str] = {}
    indexed = {}
    for one in metadata.function_metadata_results:
        ids[one.name] = one.function_id
        indexed[one.name] = [json.loads(binding) for binding in one.raw_bindings]
        expect_success(
            await worker.function_load_request(
                request(function_load_request=Message(function_id=one.function_id, metadata=one))
            )
        )

    async def http(function: str, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        sent = Message(
            method=method,
            url=f"https://front.example.org{path}",
            headers={"content-type": "application/json"},
            body=Message(bytes=body),
            params={},
            query={},
        )
        answer = await worker.invocation_request(invocation(ids[function], "req", Message(http=sent)))
        expect_success(answer)
        told = answer.return_value.http
        return {"status": int(told.status_code), "headers": dict(told.headers), "body": _text(told.body)}

    async def other(function: str, name: str, data: Message, metadata: dict[str, Message]) -> Message:
        answer: Message = await worker.invocation_request(invocation(ids[function], name, data, metadata))
        return answer

    found: dict[str, Any] = {"indexed": indexed, "capabilities": init.capabilities}
    found["livez"] = await http("probe", "GET", "/livez")
    found["submitted"] = await http("http", "POST", "/api/jobs/submit/hello_world", b'{"n": 1}')
    found["unsigned"] = await http("callback", "POST", "/api/task/callback", b"{}")
    timer = await other("sweep", "timer", Message(json='{"IsPastDue": false}'), {})
    expect_success(timer)
    job_id = json.loads(found["submitted"]["body"])["job_id"]
    message = {"message_type": "job", "job_id": job_id, "job_type": "hello_world"}
    handled = await other("jobs", "message", Message(string=json.dumps(message)), _delivery("m-1"))
    expect_success(handled)
    refused = await other("jobs", "message", Message(string="no message"), _delivery("m-2"))
    found["refused"] = {
        "success": refused.result.status == StatusResult.Success,
        "why": refused.result.exception.message,
    }
    found["after"] = await http("http", "GET", f"/api/jobs/status/{job_id}")
    return found


def _delivery(message_id: str) -> dict[str, Message]:
    return {
        "MessageId": Message(string=message_id),
        "DeliveryCount": Message(json="1"),
        "UserProperties": Message(json="{}"),
        "ApplicationProperties": Message(json="{}"),
    }


def expect_success(answer: Message) -> None:
    if answer.result.status != StatusResult.Success:
        raise AssertionError(f"{answer.result.exception.message}\n{answer.result.exception.stack_trace}")


def _text(body: Message) -> str:
    value = next(iter(body.fields.values()))
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drive())))
    sys.stdout.flush()
    os._exit(0)  # the app's threads have no end of their own: the host kills its worker
