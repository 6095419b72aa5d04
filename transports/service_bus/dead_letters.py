"""A queue's dead letters: looked at without taking them, removed by number, purged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from core.errors import MalformedMessage, TransportUnavailable
from core.messages import Message
from transports.service_bus.connection import ServiceBusConnection, describe, quietly, transport_errors
from transports.service_bus.link import CLOSING_SECONDS, Link, receiver_link
from transports.service_bus.wire import body_of, from_wire

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver

_PAGE = 250  # messages the service gives for one look
_TAKEN_AT_ONCE = 100
_MOST_TAKEN = 20_000  # letters held while one of them is looked for
_EMPTY_AFTER = 2.0  # seconds without a letter after which there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRecord:
    """A dead letter. ``number`` is its sequence number in the dead-letter queue, ``message`` None when unreadable."""

    queue: str
    number: int
    message_id: str | None
    reason: str | None
    description: str | None
    enqueued_at: datetime | None
    delivery_count: int
    properties: Mapping[str, Any]
    body: bytes
    message: Message | None


class DeadLetterQueue:
    """The dead letters of one queue. Every call makes a connection of its own: this is an operator's tool.

    All methods raise :class:`~core.errors.TransportUnavailable` when the service cannot be reached or refuses.
    """

    def __init__(self, connection: ServiceBusConnection, queue: str) -> None:
        self._connection = connection
        self.queue = queue

    def peek(self, *, limit: int, after: int = 0) -> Sequence[DeadLetterRecord]:
        """Letters in order, from the first whose number is above ``after``."""
        found: list[DeadLetterRecord] = []
        with self._looking() as receiver:
            while len(found) < limit:
                page = receiver.peek_messages(min(_PAGE, limit - len(found)), sequence_number=after + 1)
                if not page:
                    break
                found += [self._record(raw) for raw in page]
                after = found[-1].number
        return found

    def get(self, number: int) -> DeadLetterRecord | None:
        """The letter of that number."""
        with self._looking() as receiver:
            found = [self._record(raw) for raw in receiver.peek_messages(1, sequence_number=number)]
        return found[0] if found and found[0].number == number else None

    def remove(self, numbers: Collection[int]) -> set[int]:
        """Take letters out for good; the numbers of those that were there. The others are let go untouched."""
        removed: set[int] = set()
        with self._taking() as receiver:
            others: list[ServiceBusReceivedMessage] = []
            try:
                while len(removed) < len(set(numbers)) and len(others) < _MOST_TAKEN:
                    taken = receiver.receive_messages(_TAKEN_AT_ONCE, max_wait_time=_EMPTY_AFTER)
                    if not taken:
                        break
                    for raw in taken:
                        number = raw.sequence_number
                        if number is not None and number in numbers:
                            receiver.complete_message(raw)
                            removed.add(number)
                        else:
                            others.append(raw)
            finally:
                for raw in others:
                    quietly(partial(receiver.abandon_message, raw))
        return removed

    def purge(self) -> int:
        """Take every letter out for good; how many there were."""
        from azure.servicebus import ServiceBusReceiveMode

        count = 0
        with self._taking(receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
            while taken := receiver.receive_messages(_PAGE, max_wait_time=_EMPTY_AFTER):
                count += len(taken)
        return count

    @contextmanager
    def _looking(self) -> Iterator[ServiceBusReceiver]:
        """A receiver that takes nothing; it closes behind the caller's back, which takes the SDK a second."""
        link = self._link()
        try:
            with self._translated():
                yield link.open()
        finally:
            link.drop()

    @contextmanager
    def _taking(self, **options: Any) -> Iterator[ServiceBusReceiver]:
        """A receiver that takes letters; closing it in order gives back what was on its way."""
        link = self._link(**options)
        try:
            with self._translated():
                yield link.open()
        finally:
            closing = link.drop()
            if closing is not None:
                closing.join(CLOSING_SECONDS)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except transport_errors() as error:
            raise TransportUnavailable(f"the dead letters of {self.queue} cannot be had: {describe(error)}") from error

    def _link(self, **options: Any) -> Link[ServiceBusReceiver]:
        from azure.servicebus import ServiceBusSubQueue

        return receiver_link(self._connection, self.queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, **options)

    def _record(self, raw: ServiceBusReceivedMessage) -> DeadLetterRecord:
        return DeadLetterRecord(
            queue=self.queue,
            number=raw.sequence_number or 0,
            message_id=raw.message_id,
            reason=raw.dead_letter_reason,
            description=raw.dead_letter_error_description,
            enqueued_at=raw.enqueued_time_utc,
            delivery_count=raw.delivery_count or 0,
            properties={_text(name): _plain(value) for name, value in (raw.application_properties or {}).items()},
            body=_body(raw),
            message=_message(raw),
        )


def _body(raw: ServiceBusReceivedMessage) -> bytes:
    try:
        return body_of(raw)
    except MalformedMessage:
        return str(raw).encode()


def _message(raw: ServiceBusReceivedMessage) -> Message | None:
    try:
        return from_wire(raw)
    except MalformedMessage:
        return None


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain(value: object) -> Any:
    return value if isinstance(value, int | float | bool | str | None) else _text(value)
