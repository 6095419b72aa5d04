"""A trace across message, worker and child, received by a real OTLP collector on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from chaos_harness import make_claim, wait_until
from chaos_process import deployed
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from core.messages import Message, TaskMessage
from core.outcome import Failed, Finished, Outcome
from core.ports import Raised, Returned
from core.stopping import StopToken
from infrastructure.postgres.database import Database
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ProcessExecutor
from infrastructure.telemetry.asgi import TracingMiddleware
from infrastructure.telemetry.context import current_traceparent, new_traceparent
from infrastructure.telemetry.handles import TracedHandle
from infrastructure.telemetry.tracing import NoTracer, Tracer, TracingSpec, start_tracing

pytestmark = pytest.mark.chaos


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Receive(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Receive)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def named(self, name: str) -> Span:
        return next(span for span in self.spans if span.name == name)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    receiver = Collector()
    yield receiver
    receiver.close()


@pytest.mark.parametrize("task_type", ["good", "segfault"])
def test_one_trace_from_the_message_to_the_child(collector: Collector, tmp_path: Path, task_type: str) -> None:
    spec = TracingSpec(service_name="chaos", otlp_endpoint=collector.url)
    tracer = start_tracing(spec)
    executor = ProcessExecutor(
        ChildSpec(bootstrap="chaos_handlers:parts", arguments={"root": str(tmp_path)}, tracing=spec)
    )

    def handle(message: Message, **_: Any) -> Outcome:
        match executor.execute(make_claim(task_type), stop=StopToken(), deadline=None):
            case Returned(result=result):
                return Finished(result=result)
            case Raised(error=error):
                return Failed(error=error)
        raise AssertionError

    root = new_traceparent()
    message = TaskMessage(
        task_id="task-1", parent_job_id="job-1", job_type="chaos", task_type=task_type, stage=1, traceparent=root
    )
    TracedHandle(handle, tracer)(message)
    executor.close()
    tracer.close()
    expected = 2 if task_type == "good" else 1
    wait_until(lambda: len(collector.spans) >= expected)
    worker = collector.named(f"task {task_type}")
    assert worker.trace_id.hex() == root.split("-")[1]
    assert worker.parent_span_id.hex() == root.split("-")[2]
    if task_type == "segfault":
        assert "SIGSEGV" in worker.status.message
        return
    child = collector.named("handler good")
    assert child.trace_id == worker.trace_id
    assert child.parent_span_id == worker.span_id
    attributes = {attribute.key: attribute.value for attribute in child.attributes}
    assert attributes["geoworker.attempt"].int_value == 1


@pytest.mark.parametrize("mode", ["in_memory", "service_bus", "http_trigger"])
def test_one_trace_from_a_submission_over_the_transport_to_the_child(
    mode: str, collector: Collector, database_url: str, database: Database, tmp_path: Path
) -> None:
    root = new_traceparent()
    trace_id = root.split("-")[1]
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with deployed(mode, database_url, tmp_path, database, **endpoint) as deployment:
        worker = deployment.start_worker()
        front = deployment.front(worker)
        parameters = {"effects": str(tmp_path / "effects"), "count": 1, "seconds": 0.0}
        submitted = front.http.post(
            "/api/jobs/submit/chaos_items", json=parameters, headers={"traceparent": root}
        ).json()
        status = f"/api/jobs/status/{submitted['job_id']}"
        wait_until(lambda: front.http.get(status).json()["status"] == "completed", 40)
        scraped = worker.http.get("/metrics").text
        assert 'geoworker_tasks_total{outcome="Finished",task_type="items"} 1.0' in scraped
        assert "geoworker_children_started_total" in scraped
        for process in {worker, front}:  # spans are sent at the latest when a process stops
            process.process.terminate()
            assert process.process.wait(30) == 0
    names = {"HTTP POST", "job chaos_items", "task items", "handler items", "stage complete chaos_items"}
    wait_until(lambda: names <= {span.name for span in collector.spans if span.trace_id.hex() == trace_id})
    spans = {span.span_id: span for span in collector.spans if span.trace_id.hex() == trace_id}
    handler = next(span for span in spans.values() if span.name == "handler items")
    path = [handler]
    while path[-1].parent_span_id in spans:
        path.append(spans[path[-1].parent_span_id])
    assert [span.name for span in path[:2]] == ["handler items", "task items"]
    assert path[-1].name == "HTTP POST"  # the submission
    assert path[-1].parent_span_id.hex() == root.split("-")[2]


def test_http_requests_continue_the_callers_trace(collector: Collector) -> None:
    tracer = start_tracing(TracingSpec(otlp_endpoint=collector.url))
    root = new_traceparent()
    assert _request(tracer, root) != root
    tracer.close()
    span = collector.named("HTTP POST")
    assert span.parent_span_id.hex() == root.split("-")[2]


def test_without_tracing_the_traceparent_is_handed_on() -> None:
    root = new_traceparent()
    assert _request(NoTracer(), root) == root
    assert _request(NoTracer(), "nonsense") is None
    assert isinstance(start_tracing(None), NoTracer)
    assert isinstance(start_tracing(TracingSpec()), NoTracer)


def _request(tracer: Tracer, traceparent: str) -> str | None:
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        seen.append(current_traceparent())
        await send({"type": "http.response.start", "status": 202, "headers": []})

    async def send(event: Any) -> None:
        return

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/task/start",
        "headers": [(b"traceparent", traceparent.encode())],
    }
    asyncio.run(TracingMiddleware(app, tracer)(scope, None, send))
    return seen[0]
