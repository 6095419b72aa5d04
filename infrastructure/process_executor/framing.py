"""Framed JSON over a stream socket: four bytes of length, then UTF-8."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

Frame = dict[str, Any]
MAX_FRAME_BYTES = 64 * 1024 * 1024
_HEADER = struct.Struct("!I")
_READ = 1 << 16


class ChannelBroken(Exception):
    """The other end is gone, or what came from it is no frame."""


class FrameChannel:
    """One end of the conversation. Any thread may send, one thread receives.

    The socket belongs to the process that made this value: a fork of it sends nothing, so that frames never mix. When
    the descriptor was closed behind our back and its number reused, sending fails instead of writing into another file.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._owner = os.getpid()
        self._inode = os.fstat(end.fileno()).st_ino
        self._send_lock = threading.Lock()
        self._received = bytearray()

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._socket.fileno()

    @property
    def is_ours(self) -> bool:
        """Whether this process may send."""
        return os.getpid() == self._owner

    def send(self, frame: Frame) -> None:
        """Send a frame; blocks while the other end is slow.

        Raises:
            ChannelBroken: when it cannot be sent.
            TypeError, ValueError: when the frame has no JSON form.
        """
        body = json.dumps(frame, allow_nan=False, separators=(",", ":")).encode()
        if not self.is_ours:
            return
        with self._send_lock:
            try:
                if os.fstat(self._socket.fileno()).st_ino != self._inode:
                    raise ChannelBroken("the control descriptor was closed and its number reused")
                self._socket.sendall(_HEADER.pack(len(body)) + body)
            except OSError as error:
                raise ChannelBroken(f"cannot send: {error}") from error

    def receive(self) -> Frame:
        """The next frame; blocks.

        Raises:
            ChannelBroken: at the end of the stream and for what is no frame.
        """
        while (frame := self.buffered()) is None:
            self.fill()
        return frame

    def fill(self) -> None:
        """Read once what the socket has.

        Raises:
            ChannelBroken: at the end of the stream.
        """
        try:
            chunk = self._socket.recv(_READ)
        except OSError as error:
            raise ChannelBroken(f"cannot receive: {error}") from error
        if not chunk:
            raise ChannelBroken("the other end is closed")
        self._received += chunk

    def buffered(self) -> Frame | None:
        """A whole frame among the bytes already read, or None."""
        if len(self._received) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._received)
        if length > MAX_FRAME_BYTES:
            raise ChannelBroken(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken")
        end = _HEADER.size + length
        if len(self._received) < end:
            return None
        body = bytes(self._received[_HEADER.size : end])
        del self._received[:end]
        try:
            frame = json.loads(body)
        except ValueError as error:
            raise ChannelBroken("what came is no JSON") from error
        if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
            raise ChannelBroken("what came is no frame")
        return frame

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._socket.close()
