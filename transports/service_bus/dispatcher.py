"""ServiceBusDispatcher: sends to one queue, now or later."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from core.messages import Message
from transports.base import DispatchResult, Refused, Sent, TaskDispatcher, TryAgain
from transports.service_bus.connection import ServiceBusConnection, describe, transport_errors
from transports.service_bus.link import CLOSING_SECONDS, sender_link
from transports.service_bus.wire import to_wire

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch, ServiceBusSender

logger = logging.getLogger(__name__)

_BATCH_SLACK = 64  # a batch keeps 1/64 of the limit free: the SDK's sum leaves out a few bytes of what it sends
_TOO_LARGE = Refused("the message is larger than the queue takes")


class ServiceBusDispatcher(TaskDispatcher):
    """Sends to one queue in batches within the size limit. Any thread may send; the SDK's sender is used by one."""

    def __init__(self, connection: ServiceBusConnection, queue: str) -> None:
        self._queue = queue
        self._link = sender_link(connection, queue)
        self._lock = threading.Lock()
        self._broken = False

    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        """Send each message; one that is too large for the queue is refused, a fault of the service is tried again."""
        return self._with_sender(messages, lambda sender, results: _send(sender, messages, results))

    def schedule(self, messages: Sequence[Message], delay: timedelta) -> Sequence[DispatchResult]:
        """Have the queue hold each message back for ``delay``. Each is a new message to duplicate detection."""
        due = datetime.now(UTC) + delay

        def schedule(sender: ServiceBusSender, results: list[DispatchResult | None]) -> None:
            sender.schedule_messages([to_wire(message, id_suffix=f":{uuid4().hex[:8]}") for message in messages], due)
            results[:] = [Sent()] * len(results)

        return self._with_sender(messages, schedule)

    def _with_sender(
        self, messages: Sequence[Message], work: Callable[[ServiceBusSender, list[DispatchResult | None]], None]
    ) -> Sequence[DispatchResult]:
        results: list[DispatchResult | None] = [None] * len(messages)
        with self._lock:
            fault = self._attempt(work, results, reused=self._link.is_open)
            self._note(fault)
        return [result or (Sent() if fault is None else TryAgain(fault)) for result in results]

    def _attempt(
        self,
        work: Callable[[ServiceBusSender, list[DispatchResult | None]], None],
        results: list[DispatchResult | None],
        *,
        reused: bool,
    ) -> str | None:
        """What went wrong, or None. A link that lay idle may long be dead: then a fresh one is tried at once."""
        try:
            work(self._link.open(), results)
        except transport_errors() as error:
            self._link.drop()
            return self._attempt(work, results, reused=False) if reused else describe(error)
        return None

    def _note(self, fault: str | None) -> None:
        """Say so in the log when the state changes, not at each try."""
        if fault is not None and not self._broken:
            logger.warning("queue %s takes no messages: %s", self._queue, fault, extra={"action": "queue.unsent"})
        elif fault is None and self._broken:
            logger.info("queue %s takes messages again", self._queue, extra={"action": "queue.sent"})
        self._broken = fault is not None

    def close(self) -> None:
        """Close the sender. Idempotent."""
        with self._lock:
            closing = self._link.drop()
        if closing is not None:
            closing.join(CLOSING_SECONDS)


def _send(sender: ServiceBusSender, messages: Sequence[Message], results: list[DispatchResult | None]) -> None:
    from azure.servicebus.exceptions import MessageSizeExceededError

    limit = sender.create_message_batch().max_size_in_bytes
    batch = _batch(sender, limit)
    members: list[tuple[int, ServiceBusMessage]] = []

    def send_batch() -> None:
        if not members:
            return
        try:
            sender.send_messages(batch)
        except MessageSizeExceededError:  # the queue takes less than its link said
            for index, wire in members:
                results[index] = _send_alone(sender, wire)
        else:
            for index, _ in members:
                results[index] = Sent()

    for index, message in enumerate(messages):
        if results[index] is not None:  # sent, or refused, before the link broke
            continue
        wire = to_wire(message)
        try:
            batch.add_message(wire)
        except MessageSizeExceededError:
            send_batch()
            batch, members = _batch(sender, limit), []
            try:
                batch.add_message(wire)
            except MessageSizeExceededError:
                results[index] = _TOO_LARGE
                continue
        members.append((index, wire))
    send_batch()


def _send_alone(sender: ServiceBusSender, wire: ServiceBusMessage) -> DispatchResult:
    from azure.servicebus.exceptions import MessageSizeExceededError

    try:
        sender.send_messages(wire)
    except MessageSizeExceededError:
        return _TOO_LARGE
    return Sent()


def _batch(sender: ServiceBusSender, limit: int) -> ServiceBusMessageBatch:
    return sender.create_message_batch(max_size_in_bytes=limit - limit // _BATCH_SLACK)
