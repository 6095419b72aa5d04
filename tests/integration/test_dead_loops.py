from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application
from core.errors import TransportUnavailable
from tests.process_support import wait_until
from transports.in_memory import InMemorySource


def test_a_loop_that_ended_makes_the_process_unhealthy(
    start_application: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A platform restarts what is not alive; a worker that takes no work any more must not look well."""

    def refuse(source: InMemorySource) -> InMemorySource:
        raise TransportUnavailable("the queue is gone")

    monkeypatch.setattr(InMemorySource, "__enter__", refuse)
    application = start_application()
    wait_until(lambda: not any(worker.alive for worker in application.workers.values()))
    client = TestClient(create_app(application))  # without its lifespan: the application runs already
    paths = ("/livez", "/readyz", "/health")
    assert [client.get(path).status_code for path in paths] == [503, 503, 503]
    assert client.get("/health").json()["status"] == "unhealthy"
    assert "queue_worker" in client.get("/livez").json()["detail"]

    application.lifecycle.drain()  # a stop is not a death
    assert client.get("/livez").status_code == 200
