"""A pass at an interval, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta


class Periodic:
    """Makes a pass at once and then at an interval, until stopped.

    The thread outlives whatever a pass raises: ``failed`` is told of it, within the exception, and the next pass comes.
    """

    def __init__(
        self, name: str, interval: timedelta, make_pass: Callable[[], object], *, failed: Callable[[Exception], None]
    ) -> None:
        self._name = name
        self._interval = interval
        self._make_pass = make_pass
        self._failed = failed
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """Whether the end was asked for."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin, in a thread."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def stop(self, timeout: float = 1.0) -> bool:
        """Ask for the end and wait up to ``timeout`` seconds; a pass that hangs is left to itself. Idempotent.

        Returns:
            whether this call ended a thread that had been started.
        """
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout)
        return thread is not None

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._make_pass()
            except Exception as error:  # noqa: BLE001 - told, and made again
                self._failed(error)
            self._stopping.wait(self._interval.total_seconds())
