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


class RangeFile(io.RawIOBase):
    """Reads ``remote`` in blocks of 1 MiB, of which it keeps 32. Thread-safe.

    ``failure`` is the last error: GDAL, which calls this, cannot pass exceptions on and takes them for short reads.
    """

    def __init__(self, remote: RemoteFile, *, size: int, version: str | None) -> None:
        self._remote, self._size, self._version = remote, size, version
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.RLock()
        self.failure: GeoworkerError | None = None
        self.name = remote.name

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
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes from the position on; all that are left when it is negative."""
        with self._lock:
            left = max(0, self._size - self._position)
            wanted = left if size is None or size < 0 else min(size, left)
            parts = []
            while wanted > 0:
                number, offset = divmod(self._position, BLOCK_BYTES)
                part = self._block(number)[offset : offset + wanted]
                if not part:
                    break
                parts.append(part)
                self._position += len(part)
                wanted -= len(part)
            return b"".join(parts)

    def readinto(self, buffer: object) -> int:
        """See :meth:`io.RawIOBase.readinto`."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        try:
            block = self._fetched(number)
        except GeoworkerError as error:
            self.failure = error
            raise
        self._blocks[number] = block
        if len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return block

    def _fetched(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, self._size - start)
        for attempt in range(1, _TRIES + 1):
            try:
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
            except Truncated:
                if attempt == _TRIES:
                    raise
        raise AssertionError("unreachable")
