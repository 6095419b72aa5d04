"""OpenTelemetry traces, off unless configured. Traces go on across messages and into the child by W3C traceparent.

Without tracing the traceparent is still handed on, so that a trace which began elsewhere is not cut here, and log lines
carry its ids.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from core.errors import ConfigurationError, Fault
from infrastructure.telemetry.context import current_traceparent, valid_traceparent, within_trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSpec:
    """Where spans go. JSON-ready, so that children trace like their parent."""

    service_name: str = "geoworker"
    otlp_endpoint: str | None = None
    azure_connection_string: str | None = field(default=None, repr=False)

    @property
    def wanted(self) -> bool:
        """Whether spans go anywhere."""
        return self.otlp_endpoint is not None or self.azure_connection_string is not None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


class Span(Protocol):
    """A span that is open."""

    def note(self, name: str, value: str | float | bool) -> None:
        """Set an attribute."""
        ...

    def fail(self, message: str) -> None:
        """Mark the span as failed."""
        ...


class Tracer(Protocol):
    """Opens spans."""

    def span(
        self, name: str, *, parent: str | None = None, kind: str = "internal", attributes: Attributes | None = None
    ) -> AbstractContextManager[Span]:
        """A span for the length of the block, a child of ``parent`` (a traceparent) or of the running code's span."""
        ...

    def close(self) -> None:
        """Send what is left. Idempotent."""
        ...


class _Nothing:
    def note(self, name: str, value: str | float | bool) -> None: ...

    def fail(self, message: str) -> None: ...


class NoTracer:
    """Records nothing, but hands the traceparent on."""

    @contextmanager
    def span(
        self,
        name: str,  # noqa: ARG002
        *,
        parent: str | None = None,
        kind: str = "internal",  # noqa: ARG002
        attributes: Attributes | None = None,  # noqa: ARG002
    ) -> Iterator[Span]:
        """The block belongs to ``parent``."""
        with within_trace(parent or current_traceparent()):
            yield _Nothing()

    def close(self) -> None:
        """Nothing to send."""


class OpenTelemetryTracer:
    """Spans by the OpenTelemetry SDK, with a provider of its own (nothing global is set)."""

    def __init__(self, service_name: str, processors: Callable[[TracerProvider], list[SpanProcessor]]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
        for processor in processors(self._provider):
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("geoworker")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self, name: str, *, parent: str | None = None, kind: str = "internal", attributes: Attributes | None = None
    ) -> Iterator[Span]:
        """A recorded span; an exception that leaves the block marks it as failed."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        above = valid_traceparent(parent) or current_traceparent()
        context = self._propagator.extract({"traceparent": above}, Context()) if above else Context()
        with self._tracer.start_as_current_span(
            name, context=context, kind=SpanKind[kind.upper()], attributes=dict(attributes or {})
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier, set_span_in_context(span, Context()))
            with within_trace(carrier.get("traceparent")):
                yield _Recorded(span)

    def close(self) -> None:
        """Send what is left; what a collector out of reach does not take in two seconds is dropped."""
        closing = threading.Thread(target=self._provider.shutdown, name="geoworker-tracing-end", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class _Recorded:
    def __init__(self, span: Any) -> None:
        self._span = span

    def note(self, name: str, value: str | float | bool) -> None:
        self._span.set_attribute(name, value)

    def fail(self, message: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, message))


def start_tracing(spec: TracingSpec | None) -> Tracer:
    """A tracer that sends where ``spec`` says; one that records nothing when it names no place.

    Raises:
        ConfigurationError: when an exporter is asked for whose library is not installed.
    """
    if spec is None or not spec.wanted:
        return NoTracer()
    return OpenTelemetryTracer(spec.service_name, lambda provider: _processors(spec, provider))


def _processors(spec: TracingSpec, provider: TracerProvider) -> list[SpanProcessor]:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    processors: list[SpanProcessor] = []
    if spec.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        endpoint = spec.otlp_endpoint.rstrip("/")
        if not endpoint.endswith("/v1/traces"):
            endpoint += "/v1/traces"
        processors.append(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    if spec.azure_connection_string is not None:
        try:
            from azure.monitor.opentelemetry.exporter import AzureMonitorTraceExporter
        except ImportError as error:
            raise ConfigurationError(
                "tracing",
                [
                    Fault(
                        "APPLICATIONINSIGHTS_CONNECTION_STRING",
                        "needs the Azure Monitor exporter: pip install 'geoworker[azure-monitor]'",
                    )
                ],
            ) from error
        exporter = AzureMonitorTraceExporter(connection_string=spec.azure_connection_string, tracer_provider=provider)
        processors.append(BatchSpanProcessor(exporter))
    return processors
