"""HTTP requests as spans."""

from __future__ import annotations

from typing import Any

from infrastructure.telemetry.tracing import Tracer


class TracingMiddleware:
    """ASGI middleware: a server span around each HTTP request, a child of the caller's ``traceparent`` header."""

    def __init__(self, app: Any, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the request within its span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope.get("headers", ()) if name == b"traceparent"}
        parent = headers.get(b"traceparent", b"").decode("latin-1") or None
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self._tracer.span(f"HTTP {scope['method']}", parent=parent, kind="server", attributes=attributes) as span:

            async def noted(event: Any) -> None:
                if event["type"] == "http.response.start":
                    span.note("http.response.status_code", event["status"])
                    if event["status"] >= 500:
                        span.fail(f"status {event['status']}")
                await send(event)

            await self._app(scope, receive, noted)
