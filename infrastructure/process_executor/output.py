"""What a child prints: kept as a bounded tail, passed on to the log at a bounded rate, and always drained."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from infrastructure.process_executor.rate import RateLimit
from infrastructure.redaction import redact

logger = logging.getLogger("geoworker.child.output")

_LINES = 200
_LINE_BYTES = 2_000
_READ = 1 << 16


class OutputTail:
    """Reads a pipe in a thread of its own until its end, so that printing never blocks a handler or fills memory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._partial = bytearray()
        self._ids: Mapping[str, Any] = {}
        self._lock = threading.Lock()
        self._rate = RateLimit(per_second=50, burst=200)
        self._thread = threading.Thread(target=self._drain, name="geoworker-child-output", daemon=True)
        self._thread.start()

    def begin(self, ids: Mapping[str, Any]) -> None:
        """Forget the lines so far; those to come belong to the task that ``ids`` name."""
        with self._lock:
            self._lines.clear()
            self._ids = ids

    def last_lines(self, count: int = 50) -> list[str]:
        """The last lines, redacted, each at most 2,000 bytes long."""
        with self._lock:
            lines = [*self._lines, *([_text(bytes(self._partial))] if self._partial else [])]
        return [redact(line) for line in lines[-count:]]

    def wait_end(self, seconds: float) -> None:
        """Wait until all that was printed is read (the pipe's last writer is gone)."""
        self._thread.join(seconds)

    def _drain(self) -> None:
        try:
            while chunk := os.read(self._descriptor, _READ):
                self._take(chunk)
        finally:
            os.close(self._descriptor)

    def _take(self, chunk: bytes) -> None:
        first, *rest = chunk.split(b"\n")
        with self._lock:
            self._partial += first[: max(0, _LINE_BYTES - len(self._partial))]
            if not rest:
                return
            whole = [bytes(self._partial), *rest[:-1]]
            self._partial = bytearray(rest[-1][:_LINE_BYTES])
            lines = [_text(line) for line in whole[-_LINES:]]
            self._lines.extend(lines)
            ids = self._ids
        for line in lines:
            if self._rate.allows():
                dropped = self._rate.take_dropped()
                extra = {"action": "child.output", **ids, **({"dropped_lines": dropped} if dropped else {})}
                logger.info("%s", redact(line), extra=extra)


def _text(line: bytes) -> str:
    return line[:_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
