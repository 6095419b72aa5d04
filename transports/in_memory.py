"""Queues in memory: the embedded default, and what tests run on.

Behaves like a broker with peek-lock: a received message is hidden until its lock ends, comes again with a higher count
when it is not settled, and goes to the dead letters after too many deliveries. Messages are encoded and decoded for
real, so that what cannot travel fails here too.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core.errors import MalformedMessage
from core.messages import Message, decode, encode
from transports.base import (
    Complete,
    DeadLetter,
    DeliveryLost,
    DispatchResult,
    Retry,
    Sent,
    Settlement,
    SourceStatus,
    TaskDispatcher,
    TaskSource,
)

Clock = Callable[[], float]
"""Seconds, monotonic."""


@dataclass(slots=True)
class _Entry:
    body: bytes
    deliveries: int = 0
    locked_until: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A message nobody could handle, and why."""

    body: bytes
    reason: str
    detail: str


@dataclass
class InMemoryQueue:
    """One queue. Thread-safe; shared by a dispatcher and any number of sources."""

    lock_duration: timedelta = timedelta(minutes=5)
    max_delivery_count: int = 10
    clock: Clock = time.monotonic
    dead_letters: list[DeadLettered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._ready: deque[_Entry] = deque()
        self._delayed: list[tuple[float, int, _Entry]] = []
        self._locked: dict[int, _Entry] = {}  # in the order in which the locks end: all last equally long
        self._waiting = 0
        self._numbers = itertools.count()
        self._lock_seconds = self.lock_duration.total_seconds()

    def put(self, *bodies: bytes) -> None:
        """Add encoded messages."""
        with self._lock:
            for body in bodies:
                self._ready.append(_Entry(body))
            if self._waiting:
                self._changed.notify(len(bodies))

    def purge(self) -> int:
        """Drop every message that is not locked; returns how many."""
        with self._lock:
            count = len(self._ready) + len(self._delayed)
            self._ready.clear()
            self._delayed.clear()
            return count

    @property
    def empty(self) -> bool:
        """Whether no message waits, now or later, or is under a lock."""
        return not (self._ready or self._delayed or self._locked)

    def __len__(self) -> int:
        """Messages that wait, now or later."""
        with self._lock:
            return len(self._ready) + len(self._delayed)

    @property
    def locked(self) -> int:
        """Messages under a lock."""
        return len(self._locked)

    def wake(self) -> None:
        """End every running wait."""
        with self._lock:
            self._changed.notify_all()

    def take(self, timeout: float, stopping: Callable[[], bool]) -> tuple[int, _Entry] | None:
        """Lock the next message, waiting up to ``timeout`` seconds; None when there is none or ``stopping`` is true."""
        deadline: float | None = None
        with self._lock:
            while True:
                self._surface()
                if self._ready:
                    entry = self._ready.popleft()
                    entry.deliveries += 1
                    token = next(self._numbers)
                    entry.locked_until = self.clock() + self._lock_seconds
                    self._locked[token] = entry
                    return token, entry
                left = timeout if deadline is None else deadline - time.monotonic()
                if left <= 0 or stopping():
                    return None
                deadline = deadline or time.monotonic() + timeout
                self._waiting += 1
                try:
                    self._changed.wait(min(left, self._next_change()))
                finally:
                    self._waiting -= 1

    def _next_change(self) -> float:
        moments = [moment for moment, _, _ in self._delayed[:1]]
        moments += [entry.locked_until for entry in itertools.islice(self._locked.values(), 1)]
        return max(0.001, min(moments) - self.clock()) if moments else 3600.0

    def _surface(self) -> None:
        """Make due what was delayed, and give back what was locked for too long."""
        if not self._delayed and not self._locked:
            return
        now = self.clock()
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        while self._locked:
            token, entry = next(iter(self._locked.items()))
            if entry.locked_until > now:
                break
            del self._locked[token]
            if entry.deliveries >= self.max_delivery_count:
                detail = f"delivered {entry.deliveries} times and never settled"
                self.dead_letters.append(DeadLettered(entry.body, "MaxDeliveryCountExceeded", detail))
            else:
                self._ready.append(entry)

    def renew(self, token: int) -> timedelta:
        """Extend a lock; a third of what it lasts. DeliveryLost when it has run out."""
        with self._lock:
            self._surface()
            entry = self._locked.pop(token, None)
            if entry is None:
                raise DeliveryLost("the lock has run out")
            entry.locked_until = self.clock() + self._lock_seconds
            self._locked[token] = entry
            return self.lock_duration / 3

    def settle(self, token: int, settlement: Settlement) -> None:
        """Settle a locked message; DeliveryLost when the lock has run out or it was settled before."""
        with self._lock:
            self._surface()
            entry = self._locked.pop(token, None)
            if entry is None:
                raise DeliveryLost("the lock has run out, or the delivery was settled before")
            match settlement:
                case Complete():
                    pass
                case Retry(delay=delay) if delay <= timedelta(0):
                    self._ready.append(entry)
                    self._changed.notify()
                case Retry(delay=delay):
                    moment = self.clock() + delay.total_seconds()
                    heapq.heappush(self._delayed, (moment, next(self._numbers), entry))
                    self._changed.notify()
                case DeadLetter(reason=reason, detail=detail):
                    self.dead_letters.append(DeadLettered(entry.body, reason, detail))


@dataclass(slots=True)
class _InMemoryDelivery:
    message: Message
    delivery_count: int
    _source: InMemorySource
    _token: int

    def renew(self) -> timedelta:
        return self._source.renew(self._token)

    def settle(self, settlement: Settlement) -> None:
        self._source.settle(self._token, settlement)


class InMemorySource(TaskSource):
    """A consumer of one :class:`InMemoryQueue`."""

    def __init__(self, queue: InMemoryQueue) -> None:
        self._queue = queue
        self._open = False
        self._waking = False
        self._held: set[int] = set()
        self._received = 0
        self._settlements = {Complete: 0, Retry: 0, DeadLetter: 0}
        self._last_poll_at: datetime | None = None

    def open(self) -> None:
        self._open = True

    def close(self) -> None:
        self._open = False
        for token in list(self._held):
            self._held.discard(token)
            try:
                self._queue.settle(token, Retry(timedelta(0)))
            except DeliveryLost:
                continue

    def receive(self, timeout: timedelta) -> _InMemoryDelivery | None:
        self._last_poll_at = datetime.now(UTC)
        self._waking = False
        while (taken := self._queue.take(timeout.total_seconds(), self._is_waking)) is not None:
            token, entry = taken
            self._received += 1
            try:
                message = decode(entry.body)
            except MalformedMessage as error:
                settlement = DeadLetter("MalformedMessage", str(error))
                self._queue.settle(token, settlement)
                self._settlements[DeadLetter] += 1
                continue
            self._held.add(token)
            return _InMemoryDelivery(message, entry.deliveries, self, token)
        return None

    def _is_waking(self) -> bool:
        return self._waking

    def renew(self, token: int) -> timedelta:
        """Extend the lock of a message received here, as a delivery's ``renew``."""
        return self._queue.renew(token)

    def settle(self, token: int, settlement: Settlement) -> None:
        """Settle a message received here, as a delivery's ``settle``."""
        self._queue.settle(token, settlement)
        self._held.discard(token)
        self._settlements[type(settlement)] += 1

    def wake(self) -> None:
        self._waking = True
        self._queue.wake()

    def status(self) -> SourceStatus:
        return SourceStatus(
            connected=self._open,
            last_poll_at=self._last_poll_at,
            received=self._received,
            completed=self._settlements[Complete],
            retried=self._settlements[Retry],
            dead_lettered=self._settlements[DeadLetter],
            details={"waiting": len(self._queue)},
        )


class InMemoryDispatcher(TaskDispatcher):
    """Puts messages on one :class:`InMemoryQueue`."""

    def __init__(self, queue: InMemoryQueue) -> None:
        self._queue = queue

    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        self._queue.put(*map(encode, messages))
        return [Sent()] * len(messages)
