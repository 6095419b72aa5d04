"""Handling a message, traced and measured: wrappers around ``CoreMachine.handle``."""

from __future__ import annotations

import time
from typing import Protocol

from core.heartbeat import Renew
from core.messages import JobMessage, Message, StageComplete, TaskEnded, TaskMessage
from core.outcome import Failed, Outcome, Rejected, RetryLater
from core.stopping import StopToken
from infrastructure.telemetry.metrics import Metrics
from infrastructure.telemetry.tracing import Tracer


class Handle(Protocol):
    """``CoreMachine.handle``."""

    def __call__(self, message: Message, *, stop: StopToken | None = None, renew: Renew | None = None) -> Outcome: ...


class TracedHandle:
    """A message handler with a span around each message, a child of the span that the message names."""

    def __init__(self, handle: Handle, tracer: Tracer) -> None:
        self._handle = handle
        self._tracer = tracer

    def __call__(self, message: Message, *, stop: StopToken | None = None, renew: Renew | None = None) -> Outcome:
        """Handle the message within its span."""
        name, attributes = _describe(message)
        with self._tracer.span(name, parent=message.traceparent, kind="consumer", attributes=attributes) as span:
            outcome = self._handle(message, stop=stop, renew=renew)
            span.note("geoworker.outcome", type(outcome).__name__)
            match outcome:
                case Failed(error=error) | RetryLater(error=error):
                    span.fail(f"{error.type}: {error.message}")
                case Rejected(detail=detail):
                    span.fail(detail)
                case _:
                    pass
            return outcome


class MeteredHandle:
    """A message handler that counts outcomes and measures tasks."""

    def __init__(self, handle: Handle, metrics: Metrics) -> None:
        self._handle = handle
        self._metrics = metrics

    def __call__(self, message: Message, *, stop: StopToken | None = None, renew: Renew | None = None) -> Outcome:
        """Handle the message and count how it ended."""
        began = time.perf_counter()
        outcome = self._handle(message, stop=stop, renew=renew)
        self._metrics.handled(message, outcome, time.perf_counter() - began)
        return outcome


def _describe(message: Message) -> tuple[str, dict[str, str | int | float | bool]]:
    match message:
        case TaskMessage():
            return f"task {message.task_type}", {
                "geoworker.job_id": message.parent_job_id,
                "geoworker.task_id": message.task_id,
                "geoworker.task_type": message.task_type,
                "geoworker.stage": message.stage,
            }
        case JobMessage():
            return f"job {message.job_type}", {"geoworker.job_id": message.job_id}
        case StageComplete():
            return f"stage complete {message.job_type}", {
                "geoworker.job_id": message.job_id,
                "geoworker.stage": message.completed_stage,
            }
        case TaskEnded():
            return "task ended", {"geoworker.job_id": message.parent_job_id, "geoworker.task_id": message.task_id}
