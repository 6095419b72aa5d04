"""The server's half of RFC 6455, as far as AMQP over WebSocket needs it, and the plain HTTP beside it."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    target: str
    headers: dict[str, str]

    @property
    def upgrades_to_websocket(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket" and "sec-websocket-key" in self.headers


def parse_request(data: bytes) -> tuple[HttpRequest, bytes] | None:
    """The request head at the start of ``data`` and what follows it; None until the head is whole.

    Raises ValueError when it is not HTTP.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        if len(data) > 16384:
            raise ValueError("the request head is too long")
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ", 2)
    fields = (line.partition(":") for line in lines)
    return HttpRequest(method, target, {name.strip().lower(): value.strip() for name, _, value in fields}), rest


def upgrade_response(request: HttpRequest) -> bytes:
    """The answer that turns the stream into a WebSocket speaking AMQP."""
    key = request.headers["sec-websocket-key"].encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    offered = [name.strip() for name in request.headers.get("sec-websocket-protocol", "").split(",")]
    chosen = next((name for name in offered if name.lower().startswith("amqp")), None)
    protocol = f"Sec-WebSocket-Protocol: {chosen}\r\n" if chosen else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    ).encode()


def http_response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + body


def binary_frame(payload: bytes) -> bytes:
    return _frame(_BINARY, payload)


def close_frame() -> bytes:
    return _frame(_CLOSE, struct.pack(">H", 1000))


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + struct.pack(">H", size) + payload
    return bytes((0x80 | opcode, 127)) + struct.pack(">Q", size) + payload


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What a piece of the stream held: bytes for AMQP, bytes to answer at once, and whether the client said goodbye."""

    data: bytes
    answer: bytes
    closed: bool


class FrameUnwrapper:
    """Takes the frames of a client apart."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Unwrapped:
        self._buffer += data
        found, answer, closed = bytearray(), b"", False
        while (frame := self._next()) is not None:
            opcode, payload = frame
            if opcode == _CLOSE:
                closed = True
            elif opcode == _PING:
                answer += _frame(_PONG, payload)
            elif opcode != _PONG:
                found += payload
        return Unwrapped(bytes(found), answer, closed)

    def _next(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, masked, size, start = buffer[0] & 0x0F, buffer[1] & 0x80, buffer[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < start + width:
                return None
            size, start = int.from_bytes(buffer[start : start + width], "big"), start + width
        end = start + (4 if masked else 0) + size
        if len(buffer) < end:
            return None
        payload = bytes(buffer[end - size : end])
        if masked and size:
            mask = bytes(buffer[start : start + 4]) * (size // 4 + 1)
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(mask[:size], "big")).to_bytes(size, "big")
        del buffer[:end]
        return opcode, payload
