"""A remote file as Python's file objects are: it seeks, and reads blocks on demand."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

from core.errors import GeoworkerError, TransientError
from infrastructure.storage.remote import RemoteFile, Truncated

BLOCK_BYTES = 1 << 20
_KEPT_BLOCKS = 32
_TRIES = 3


class RemoteBlocks:
    """Blocks of 1 MiB of ``remote``, of which the last 32 are kept. Thread-safe."""

    def __init__(self, remote: RemoteFile, *, size: int, version: str) -> None:
        self.size = size
        self.failure: GeoworkerError | None = None
        self._remote, self._version = remote, version
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def block(self, number: int) -> bytes:
        """One block; empty after a failure, which :attr:`failure` then holds."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            if self.failure is not None:
                return b""
            try:
                block = self._fetched(number)
            except GeoworkerError as error:
                self.failure = error
                return b""
            self._kept[number] = block
            if len(self._kept) > _KEPT_BLOCKS:
                self._kept.popitem(last=False)
            return block

    def _fetched(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, self.size - start)
        for _ in range(_TRIES):
            try:
                return self._read(start, length)
            except Truncated as error:
                last = error
        raise last

    def _read(self, start: int, length: int) -> bytes:
        with self._remote.open(start, self._version, length=length) as piece:
            if piece.start != start or piece.version != self._version:
                raise TransientError(f"{self._remote.shown} changed while it was read")
            data = bytearray()
            for chunk in piece.chunks:
                data += chunk
                if len(data) >= length:
                    break
        if len(data) < length:
            raise Truncated(f"{self._remote.shown} ended early")
        return bytes(data[:length])


class RangeFile(io.RawIOBase):
    """A position in a remote file. Reads are short after a failure: GDAL, which calls this, takes no exceptions."""

    def __init__(self, blocks: RemoteBlocks) -> None:
        self._blocks, self._position = blocks, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; beyond the end is allowed, and reads nothing there."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blocks.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes from the position on; all that are left when it is negative."""
        left = max(0, self._blocks.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted > 0:
            number, offset = divmod(self._position, BLOCK_BYTES)
            part = self._blocks.block(number)[offset : offset + wanted]
            if not part:
                break
            parts.append(part)
            self._position += len(part)
            wanted -= len(part)
        return b"".join(parts)
