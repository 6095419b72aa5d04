"""A client's socket on the event loop: AMQP directly or in WebSocket frames, and the faults that happen to bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import cast

from testing.emulator.connection import Connection, Wire
from testing.emulator.faults import Faults
from testing.emulator.websocket import (
    FrameUnwrapper,
    binary_frame,
    close_frame,
    http_response,
    parse_request,
    upgrade_response,
)

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ClientStream(asyncio.Protocol):
    """One accepted socket."""

    def __init__(
        self,
        open_connection: Callable[[Wire], Connection],
        faults: Faults,
        *,
        on_event: Callable[[], None],
        on_end: Callable[[ClientStream], None],
    ) -> None:
        self.connection = open_connection(self)
        self._faults = faults
        self._on_event = on_event
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outgoing = bytearray()
        self._held: list[asyncio.TimerHandle] = []
        self._release_at = 0.0
        self._flushing = False
        self._blackholed = False
        self._http: bytes | None = None
        self._websocket: FrameUnwrapper | None = None
        self._started = False

    # --- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._faults.blackhole_new:
            self.blackhole()

    def data_received(self, data: bytes) -> None:
        if not self._started:
            self._started = True
            self._http = b"" if data.startswith(b"GET ") else None
        if self._http is not None:
            data = self._on_http(self._http + data)
        if data and self._websocket is not None:
            unwrapped = self._websocket.feed(data)
            self._write_raw(unwrapped.answer)
            if unwrapped.closed:
                self.close()
            data = unwrapped.data
        if data:
            self.connection.received(data)
        self._on_event()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for timer in self._held:
            timer.cancel()
        self._transport = None
        self.connection.lost()
        self._on_end(self)
        self._on_event()

    # --- the connection's calls

    def write(self, data: bytes) -> None:
        self._write_raw(binary_frame(data) if self._websocket is not None else data)

    def close(self) -> None:
        if self._websocket is not None:
            self._write_raw(close_frame())
        self._loop.call_soon(self._close_transport)

    def reset(self) -> None:
        transport = self._transport
        if transport is None:
            return
        opened: socket.socket = transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._outgoing.clear()
        transport.abort()

    # --- faults

    def blackhole(self) -> None:
        """Stop reading and writing, and tell nobody."""
        self._blackholed = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def heal(self) -> None:
        """Go on where it stopped: nothing was lost, as after a network that came back."""
        self._blackholed = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._flush()

    # --- within

    def _write_raw(self, data: bytes) -> None:
        self._outgoing += data
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._blackholed or not self._outgoing:
            return
        data = bytes(self._outgoing)
        self._outgoing.clear()
        now = self._loop.time()
        self._release_at = max(self._release_at, now + self._faults.delay)
        if self._release_at <= now:
            self._emit(data)
        else:
            self._held = [timer for timer in self._held if timer.when() > now]
            self._held.append(self._loop.call_at(self._release_at, self._emit, data))

    def _emit(self, data: bytes) -> None:
        if self._blackholed:
            self._outgoing[:0] = data
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close_transport(self) -> None:
        if self._transport is not None and not self._blackholed:
            self._flush()
            wait = self._release_at - self._loop.time()
            if wait > 0:
                self._held.append(self._loop.call_later(wait, self._transport.close))
            else:
                self._transport.close()

    def _on_http(self, data: bytes) -> bytes:
        """Answer a GET: a WebSocket upgrade, or /health. What follows the request's head is returned."""
        try:
            parsed = parse_request(data)
        except ValueError:
            self._write_raw(http_response("400 Bad Request", b"{}"))
            self.close()
            return b""
        if parsed is None:
            self._http = data
            return b""
        request, rest = parsed
        self._http = None
        if request.upgrades_to_websocket:
            self._write_raw(upgrade_response(request))
            self._websocket = FrameUnwrapper()
            return rest
        found = request.target.split("?")[0] == "/health"
        body = json.dumps({"status": "healthy"} if found else {"status": "not found"}).encode()
        self._write_raw(http_response("200 OK" if found else "404 Not Found", body))
        self.close()
        return b""
