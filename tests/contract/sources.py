"""What the task source contract runs against: one harness a transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from core.messages import Message
from testing.clock import ManualClock
from transports.base import TaskDispatcher, TaskSource
from transports.in_memory import InMemoryDispatcher, InMemoryQueue, InMemorySource

LOCK = timedelta(seconds=60)
MAX_DELIVERIES = 4


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A dead letter as the contract looks at it."""

    body: bytes
    reason: str
    detail: str


class SourceHarness(ABC):
    """One transport: locks of :data:`LOCK`, at most :data:`MAX_DELIVERIES` deliveries of a message.

    Declared abilities, which the contract's tests skip by:
        counts_survive_retry: a message that was settled with Retry comes back with a higher delivery count.
        has_raw_messages: foreign bytes can reach the source.
        has_lock: the transport leases messages by time.
        clock_is_real: :meth:`advance` waits; tests with long times are left out.
    """

    counts_survive_retry = True
    has_raw_messages = True
    has_lock = True
    clock_is_real = False
    receive_timeout = timedelta(0)
    """How long a receive may need for a message that is there."""

    @abstractmethod
    def source(self) -> TaskSource:
        """Another consumer of the same queue, not opened."""

    @abstractmethod
    def dispatcher(self) -> TaskDispatcher:
        """The transport's outbound side, to that queue."""

    def send(self, message: Message) -> None:
        """Put a message on the queue."""
        self.dispatcher().dispatch([message])

    @abstractmethod
    def send_raw(self, body: bytes) -> None:
        """Put foreign bytes on the queue."""

    @abstractmethod
    def advance(self, by: timedelta) -> None:
        """Move the transport's time forward."""

    @abstractmethod
    def dead_letters(self) -> Sequence[DeadLettered]:
        """What was dead-lettered."""

    def close(self) -> None:  # noqa: B027 - a harness without a server has nothing to close
        """Let go of everything."""


class InMemoryHarness(SourceHarness):
    """Queues in memory on a manual clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = InMemoryQueue(lock_duration=LOCK, max_delivery_count=MAX_DELIVERIES, clock=self.clock.monotonic)

    def source(self) -> TaskSource:
        return InMemorySource(self.queue)

    def dispatcher(self) -> TaskDispatcher:
        return InMemoryDispatcher(self.queue)

    def send_raw(self, body: bytes) -> None:
        self.queue.put(body)

    def advance(self, by: timedelta) -> None:
        self.clock.advance(by)

    def dead_letters(self) -> Sequence[DeadLettered]:
        return [DeadLettered(letter.body, letter.reason, letter.detail) for letter in self.queue.dead_letters]
