"""The namespace: queues by address, and the clock they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from testing.emulator.clock import Clock
from testing.emulator.codec import CodecError
from testing.emulator.conditions import DECODE_ERROR, MESSAGE_SIZE_EXCEEDED, NOT_FOUND, Refusal
from testing.emulator.config import EmulatorConfig
from testing.emulator.message import parse_message, split_batch
from testing.emulator.performatives import BATCH_MESSAGE_FORMAT, text
from testing.emulator.queue import DEAD_LETTER_SUFFIX, Queue

MANAGEMENT_SUFFIX = "$management"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a link leads: ``path`` below the namespace, in lower case and without a management suffix."""

    path: str
    is_management: bool

    @staticmethod
    def parse(value: Any) -> Address:
        """From a path or an amqp(s):// or sb:// address, whatever its case."""
        given = (text(value) or "").strip()
        path = urlsplit(given).path if "://" in given else given
        path = path.strip("/").lower()
        head, _, tail = path.rpartition("/")
        return Address(head, True) if tail == MANAGEMENT_SUFFIX else Address(path, False)


class Broker:
    """The queues of one namespace."""

    def __init__(self, config: EmulatorConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self._queues: dict[str, Queue] = {}
        for queue_config in config.queues:
            queue = Queue(queue_config, clock)
            for one in (queue, queue.dead_letters):
                if one is not None:
                    self._queues[one.name.lower()] = one

    def find(self, path: str) -> Queue:
        """The queue (or dead-letter queue) at ``path``. Raises Refusal (not-found)."""
        try:
            return self._queues[path.lower()]
        except KeyError:
            raise Refusal(NOT_FOUND, f"The messaging entity '{path}' could not be found.") from None

    def names(self) -> dict[str, str]:
        """The names of the queues and their dead-letter queues, by those in lower case."""
        return {path: queue.name for path, queue in self._queues.items()}

    def send(self, queue: Queue, payload: bytes, message_format: int) -> None:
        """Take a transfer into a queue: one message, or a batch, all of it or nothing. Raises Refusal."""
        limit = self.config.max_message_size
        if len(payload) > limit:
            words = f"The received message (size {len(payload)} bytes) exceeds the limit ({limit} bytes) of the link"
            raise Refusal(MESSAGE_SIZE_EXCEEDED, words)
        if queue.dead_letters is None:
            raise Refusal(NOT_FOUND, f"The messaging entity '{queue.name}' could not be found: it takes no messages.")
        try:
            parts = split_batch(payload) if message_format == BATCH_MESSAGE_FORMAT else [payload]
            messages = [parse_message(part) for part in parts]
        except CodecError as exc:
            raise Refusal(DECODE_ERROR, str(exc)) from exc
        for message in messages:
            queue.enqueue(message)
        queue.pump()

    def tick(self) -> None:
        """Let everything happen that is due."""
        for queue in self._queues.values():
            queue.tick()

    def next_due(self) -> float | None:
        """When :meth:`tick` is due, in the time of the clock."""
        return min((due for queue in self._queues.values() if (due := queue.next_due()) is not None), default=None)


DEAD_LETTER_PATH = f"/{DEAD_LETTER_SUFFIX}".lower()
