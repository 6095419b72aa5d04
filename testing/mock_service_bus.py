"""MockServiceBusRepository: takes every message that would be sent, keeps it, and can deliver it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from core.messages import Channel, Message, encode
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


_HOLD = timedelta(seconds=30)


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
        self._captured: list[tuple[str, bytes, datetime]] = []  # queue, body and moment of each
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
        entries = self._outbox.take(channels, limit=limit, hold=_HOLD)
        if entries:
            self.publish(entries)
        return len(entries)

    def send(self, channel: Channel, message: Message) -> None:
        """Capture one message and put it on its queue."""
        body = encode(message)
        self._captured.append((QUEUES[channel], body, self._clock.now()))
        if channel is not Channel.CALLBACKS:
            copies = 1 if self._network is None else self._network.copies(channel, message)
            self._queues[channel].put(*[body] * copies)

    def source(self, channel: Channel) -> InMemorySource:
        """A consumer of a channel's queue."""
        return InMemorySource(self._queues[channel])

    def queue(self, channel: Channel) -> InMemoryQueue:
        """The queue behind a channel."""
        return self._queues[channel]

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
        return [
            {"queue": queue, "message": json.loads(body), "timestamp": at.isoformat().replace("+00:00", "Z")}
            for queue, body, at in list(self._captured)
        ]

    def get_messages_for_queue(self, name: str) -> list[dict[str, Any]]:
        """Those that went to the queue of that name, ``geospatial-jobs`` for instance."""
        return [sent for sent in self.get_sent_messages() if sent["queue"] == name]

    def get_stage_complete_signals(self) -> list[dict[str, Any]]:
        """The StageComplete messages: ``{"job_id", "job_type", "completed_stage", ...}``."""
        messages = [sent["message"] for sent in self.get_sent_messages()]
        return [message for message in messages if message["message_type"] == "stage_complete"]

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
        self._captured.clear()
        self.purge()
