"""Calls that come at the same moment, made as one: a commit costs the same for one task as for ten."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

# Seconds that the next leader has the interpreter to itself: it holds it only until its question is sent, and would
# otherwise queue for it behind everybody whom the last answer wakes, with nothing on the way to the database meanwhile.
_HEAD_START = 0.0001


class Together(Generic[Q, A]):
    """Answers questions in batches without ever waiting for one to fill.

    A caller who finds nobody at work asks at once, alone. Those who come meanwhile are asked together as soon as that
    answer is there, by the first of them, while the answer is still being read. Thread-safe.

    Args:
        ask: asks a batch and gives what reads its answers, in order; one batch is asked at a time. What either raises
            is raised to every caller of that batch.
        limit: the most questions in one batch.
    """

    def __init__(self, ask: Callable[[Sequence[Q]], Callable[[], Sequence[A]]], *, limit: int = 100) -> None:
        self._ask = ask
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Q, A]] = deque()
        self._busy = False

    def __call__(self, question: Q) -> A:
        """The answer to ``question``, asked alone or with others."""
        call: _Call[Q, A] = _Call(question)
        with self._lock:
            self._waiting.append(call)
            follows, self._busy = self._busy, True
        if follows:
            call.turn.acquire()
        if not call.settled:
            self._lead()
        if call.error is not None:
            raise call.error
        return call.answer

    def _lead(self) -> None:
        """Ask for everybody who waits now, the caller included; let the next one lead, and then read the answers."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
        try:
            try:
                read = self._ask([call.question for call in batch])
            finally:
                self._hand_over()
            for call, answer in zip(batch, read(), strict=True):
                call.answer = answer
        except BaseException as error:  # noqa: BLE001 - raised again to every caller
            for call in batch:
                call.error = error
        finally:
            for call in batch:
                call.settled = True
            for call in batch[1:]:
                call.turn.release()

    def _hand_over(self) -> None:
        with self._lock:
            self._busy = bool(self._waiting)
            following = self._waiting[0] if self._waiting else None
        if following is not None:
            following.turn.release()
            time.sleep(_HEAD_START)


class _Call(Generic[Q, A]):
    __slots__ = ("answer", "error", "question", "settled", "turn")

    answer: A
    error: BaseException | None

    def __init__(self, question: Q) -> None:
        self.question = question
        self.error = None
        self.settled = False
        self.turn = threading.Lock()
        self.turn.acquire()
