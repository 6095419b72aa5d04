"""A reusable thread that looks after one thing at a time, such as a running task's lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

_PARKED_LOOKS = 15


class WatchingThread(Generic[T]):
    """Calls ``look(subject)`` again and again while there is a subject.

    ``look`` answers how long until it wants to look again; without a subject, or when it answers None, it is ``poll``.
    The thread starts with a subject, is parked between subjects, and ends when none came for a while, so that short
    work neither starts nor wakes one.
    """

    def __init__(self, name: str, look: Callable[[T], timedelta | None], *, poll: timedelta) -> None:
        self._name = name
        self._look = look
        self._poll = poll.total_seconds()
        self._changed = threading.Condition(threading.Lock())
        self._subject: T | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self, subject: T) -> None:
        """Watch ``subject`` from now on; the first look comes within ``poll``."""
        self._subject = subject
        if self._thread is None:
            self._begin()

    def _begin(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def watches(self, subject: T) -> bool:
        """Whether ``subject`` is still watched; a look may ask after it had to wait."""
        return self._subject is subject

    def finish(self) -> None:
        """Watch nothing. A look that has begun goes on."""
        self._subject = None

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._subject = None
            self._changed.notify()

    def _run(self) -> None:
        idle = 0
        pause = self._poll
        while True:
            with self._changed:
                if self._closed:
                    return
                self._changed.wait(pause)
                subject = self._subject
                idle = idle + 1 if subject is None else 0
                if idle > _PARKED_LOOKS and self._park():
                    return
            pause = self._poll
            if subject is not None:
                wanted = self._look(subject)
                if wanted is not None and self._subject is subject:
                    pause = max(0.01, wanted.total_seconds())

    def _park(self) -> bool:
        """Whether the thread may end: not when a subject came before it was seen that there is no thread."""
        thread, self._thread = self._thread, None
        if self._subject is None:
            return True
        self._thread = thread
        return False
