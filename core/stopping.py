"""A task's own stop token: a one-way switch with a reason, distinct from the worker's lifecycle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal

from core.errors import ErrorInfo


class StopReason(StrEnum):
    """Why a running task is asked to stop."""

    DRAIN = "drain"  # the worker is shutting down; the task is released without counting a failure
    CANCELLED = "cancelled"  # the job was cancelled or has failed
    MEMORY = "memory"  # above the soft memory mark
    TIMEOUT = "timeout"  # past the task's deadline
    STALLED = "stalled"  # no progress for too long
    LEASE_LOST = "lease_lost"  # another attempt owns the task


_ERROR_TYPES = {
    StopReason.MEMORY: "MemoryLimitApproached",
    StopReason.TIMEOUT: "TaskTimeout",
    StopReason.STALLED: "TaskStalled",
}


def stop_error(
    reason: Literal[StopReason.MEMORY, StopReason.TIMEOUT, StopReason.STALLED],
    message: str,
    details: Mapping[str, Any] | None = None,
) -> ErrorInfo:
    """The failure of an attempt that was stopped for what it used or did not do; it is tried again."""
    return ErrorInfo(
        type=_ERROR_TYPES[reason],
        message=message,
        retryable=True,
        code=reason.upper(),
        cause=str(reason),
        details=dict(details or {}),
    )


class StopToken:
    """Asked once, for one reason; the first reason stays. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        self._event: threading.Event | None = None  # made for the first who waits
        self._listeners: list[Callable[[StopReason], None]] = []

    def request(self, reason: StopReason) -> None:
        """Ask for a stop. Later requests change nothing."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            listeners, self._listeners = self._listeners, []
            if self._event is not None:
                self._event.set()
        for listener in listeners:
            listener(reason)

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._reason is not None

    @property
    def reason(self) -> StopReason | None:
        """Why, or None while nobody has asked."""
        return self._reason

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a request; True when there is one."""
        with self._lock:
            if self._reason is not None:
                return True
            if self._event is None:
                self._event = threading.Event()
        return self._event.wait(seconds)

    def subscribe(self, listener: Callable[[StopReason], None]) -> Callable[[], None]:
        """Call ``listener`` once when a stop is asked for (at once if it was); returns how to unsubscribe."""
        with self._lock:
            if self._reason is None:
                self._listeners.append(listener)
                return lambda: self._unsubscribe(listener)
            reason = self._reason
        listener(reason)
        return lambda: None

    def _unsubscribe(self, listener: Callable[[StopReason], None]) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
