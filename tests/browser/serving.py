"""The HTTP side of a process in a thread, for tests that need real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from app.api.application import create_app
from app.composition import Application
from app.server import bind


@dataclass(frozen=True, slots=True)
class Served:
    """Where an application is served."""

    address: str
    application: Application


@contextmanager
def serve(application: Application) -> Iterator[Served]:
    """Serve ``application`` on a free port of loopback for the length of the block."""
    listener = bind("127.0.0.1", 0)
    app = create_app(application, manage_lifecycle=False)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="test server", daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", application)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
