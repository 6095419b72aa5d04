"""Receivers of callbacks and POSTs on loopback, which answer as told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Misbehaviour(Enum):
    """What a receiver may do instead of answering."""

    HANG = auto()
    RESET = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with headers and a body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Reply = int | Answer | Misbehaviour


@dataclass(slots=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Answers one request after the other as told, the last one for ever, and keeps what it got."""

    def __init__(self, replies: Sequence[Reply] = (200,)) -> None:
        self.got: list[Received] = []
        self.acknowledged = threading.Event()
        self._replies = list(replies)
        self._changed = threading.Condition()
        self._released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/done"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        with self._changed:
            self.got.append(Received(request.command, request.path, dict(request.headers), body))
            reply = self._replies[min(len(self.got), len(self._replies)) - 1]
            self._changed.notify_all()
        match reply:
            case Misbehaviour.HANG:
                self._released.wait(60)
                request.close_connection = True
            case Misbehaviour.RESET:
                request.close_connection = True
            case Answer(status=status, headers=headers, body=answer):
                _send(request, status, headers, answer)
            case status:
                _send(request, status, {}, b"")
        if isinstance(reply, int) and reply < 300:
            self.acknowledged.set()

    def wait_for(self, count: int, seconds: float = 30) -> None:
        """Wait until so many requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, seconds), f"{len(self.got)} of {count} came"

    def close(self) -> None:
        """Stop listening and let hanging requests go."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


def _send(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def receivers() -> Iterator[Callable[..., Receiver]]:
    """Makes receivers and closes them at the end."""
    made: list[Receiver] = []

    def make(*replies: Reply) -> Receiver:
        made.append(Receiver(replies or (200,)))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()
