"""What costs a call to another service, for pages: asked for in the background, at most every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import GeoworkerError

T = TypeVar("T")

_FRESH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was last heard: a value, or why there is none; neither before the first answer."""

    value: T | None = None
    fault: str | None = None


class Asked(Generic[T]):
    """The latest answer of ``ask``; asks again when that is half a minute old. Nobody waits for it.

    Args:
        name: of the thread that asks.
        ask: the question; a GeoworkerError that it raises is the answer's fault.
    """

    def __init__(self, name: str, ask: Callable[[], T]) -> None:
        self._name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._answer: Answer[T] = Answer()

    def latest(self) -> Answer[T]:
        """What was last heard."""
        with self._lock:
            due = time.monotonic() - self._asked_at > _FRESH_SECONDS
            if due:
                self._asked_at = time.monotonic()
        if due:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return self._answer

    def note(self, value: T) -> None:
        """Take what was learnt otherwise for the answer."""
        self._answer = Answer(value)

    def _run(self) -> None:
        try:
            self.note(self._ask())
        except GeoworkerError as error:
            self._answer = Answer(fault=str(error))
