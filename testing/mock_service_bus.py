"""MockServiceBusRepository: takes every message that would be sent, keeps it, and can deliver it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from core.messages import Channel, Message, StageComplete, encode
from core.ports import OutboxStore
from core.records import OutboxEntry
from testing.clock import Clock
from transports.in_memory import DeadLettered, InMemoryQueue, InMemorySource

QUEUES: Mapping[Channel, str] = {
    Channel.JOBS: "geospatial-jobs",
    Channel.FUNCTIONS: "geospatial-tasks",
    Channel.DOCKER: "long-running-tasks",
    Channel.CALLBACKS: "callbacks",
}


class Network(Protocol):
    """How often a message is delivered."""

    def copies(self, channel: Channel, message: Message) -> int:
        """0 when it is lost, 1 when all is well, 2 when it is doubled."""
        ...


class Captured(NamedTuple):
    """A message that would have been sent."""

    queue: str
    message: Message
    at: datetime

    @property
    def timestamp(self) -> str:
        """When, in ISO 8601."""
        return self.at.isoformat().replace("+00:00", "Z")


class MockServiceBusRepository:
    """The MessagePublisher port without a broker. Thread-safe.

    What is published is captured for the ``get_...`` methods, and waits in a queue in memory for whoever asks for a
    :meth:`source`. Messages are encoded and decoded for real.

    Args:
        outbox: where sent messages are marked as sent, as a relay does.
        clock: of the timestamps and of the queues' locks and delays.
        network: loses and doubles deliveries; none by default.
    """

    def __init__(
        self, *, outbox: OutboxStore | None = None, clock: Clock | None = None, network: Network | None = None
    ) -> None:
        self._outbox = outbox
        self._clock = clock or Clock()
        self._network = network
        self._lock = threading.Lock()
        self._captured: list[Captured] = []
        self._queues = {channel: InMemoryQueue(clock=self._clock.monotonic) for channel in QUEUES}

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        """Capture committed messages and put them on their queues."""
        for entry in entries:
            self.send(entry.channel, entry.message)
        if entries and self._outbox is not None:
            self._outbox.mark_sent([entry.entry_id for entry in entries])

    def relay(self, channels: Sequence[Channel] = tuple(Channel), *, limit: int = 1000) -> int:
        """Publish what is due in the outbox; returns how many messages."""
        if self._outbox is None:
            return 0
        entries = self._outbox.take(channels, limit=limit, hold=timedelta(seconds=30))
        self.publish(entries)
        return len(entries)

    def send(self, channel: Channel, message: Message) -> None:
        """Capture one message and put it on its queue."""
        with self._lock:
            self._captured.append(Captured(QUEUES[channel], message, self._clock.now()))
        if channel is not Channel.CALLBACKS:
            copies = 1 if self._network is None else self._network.copies(channel, message)
            self._queues[channel].put(*[encode(message)] * copies)

    def source(self, channel: Channel) -> InMemorySource:
        """A consumer of a channel's queue."""
        return InMemorySource(self._queues[channel])

    def is_idle(self, channel: Channel) -> bool:
        """Whether a channel's queue holds nothing at all: no message that waits, and none that is being handled."""
        return self._queues[channel].empty

    def waiting(self, channel: Channel) -> int:
        """How many messages wait on a channel's queue."""
        return len(self._queues[channel])

    def purge(self) -> int:
        """Lose every waiting message, as a purged broker does; returns how many. What was captured stays."""
        return sum(queue.purge() for queue in self._queues.values())

    def dead_letters(self) -> list[DeadLettered]:
        """Messages that nobody could handle."""
        return [letter for queue in self._queues.values() for letter in queue.dead_letters]

    def get_sent_messages(self) -> list[dict[str, Any]]:
        """Every captured message in order: ``{"queue", "message", "timestamp"}``."""
        with self._lock:
            return [
                {"queue": one.queue, "message": _plain(one.message), "timestamp": one.timestamp}
                for one in self._captured
            ]

    def get_messages_for_queue(self, name: str) -> list[dict[str, Any]]:
        """Those that went to the queue of that name, ``geospatial-jobs`` for instance."""
        return [sent for sent in self.get_sent_messages() if sent["queue"] == name]

    def get_stage_complete_signals(self) -> list[dict[str, Any]]:
        """The StageComplete messages: ``{"job_id", "job_type", "completed_stage", ...}``."""
        with self._lock:
            return [_plain(one.message) for one in self._captured if isinstance(one.message, StageComplete)]

    def get_message_summary(self) -> list[dict[str, Any]]:
        """One short line a message: ``{"queue_name", "message_type", "timestamp"}`` and the ids it names."""
        names = ("job_id", "task_id", "task_type", "stage", "completed_stage")
        return [
            {
                "queue_name": sent["queue"],
                "message_type": sent["message"]["message_type"],
                "timestamp": sent["timestamp"],
                **{name: sent["message"][name] for name in names if name in sent["message"]},
            }
            for sent in self.get_sent_messages()
        ]

    def clear(self) -> None:
        """Forget what was captured and lose what waits."""
        with self._lock:
            self._captured.clear()
        self.purge()


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_none=True)
