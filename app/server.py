"""uvicorn, taught to drain: on SIGTERM the socket stays open and answers 503 until running tasks are released."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from app.composition import Application
from core.errors import ConfigurationError, Fault

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SECOND_SIGNAL_EXIT_CODE = 130
_OVERDUE_EXIT_CODE = 1


class DrainingServer(uvicorn.Server):
    """Sets the stop event at the first signal, goes on serving while the drain runs, and exits after it.

    A second signal leaves at once: leases run out and the tasks are taken up elsewhere.
    """

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin to drain at the first signal, leave at the second."""
        self._signals += 1
        if self._signals > 1:
            os._exit(_SECOND_SIGNAL_EXIT_CODE)
        threading.Thread(target=self._leave_when_overdue, name="exit-deadline", daemon=True).start()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        try:
            self._application.lifecycle.drain()
        finally:
            self.should_exit = True

    def _leave_when_overdue(self) -> None:
        """The last resort: a thread that hangs in a call out of reach must not hold the process beyond its time."""
        time.sleep(self._application.lifecycle.longest_stop)
        logger.error("the stop took too long; leaving as things are", extra={"action": "worker.overdue"})
        os._exit(_OVERDUE_EXIT_CODE)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, without raising the signal again at the end: the drain was the answer to it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in _SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off for sockets that name their protocol; else answers wait 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            "settings", [Fault("PORT", f"cannot listen on {host}:{port}: {error.strerror}", port)]
        ) from error
    return listener


def run_server(
    asgi: ASGIApp, application: Application, listener: socket.socket, *, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; returns when everything is closed."""
    config = uvicorn.Config(
        asgi,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    server = DrainingServer(config, application)
    host, port = listener.getsockname()[:2]
    if ready is not None:
        ready(f"http://{'[' + host + ']' if ':' in host else host}:{port}")
    asyncio.run(server.serve(sockets=[listener]))
