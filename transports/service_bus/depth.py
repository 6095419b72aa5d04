"""How many messages lie in a queue, and since when: looked at without taking any, with the right to listen alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from core.errors import TransportUnavailable
from transports.service_bus.connection import ServiceBusConnection, describe, transport_errors
from transports.service_bus.link import receiver_link

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver

_PAGE = 250  # messages the service gives for one look
MOST_COUNTED = 1000
"""Messages that are counted; of a queue with more only that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """What lies in a queue.

    ``waiting`` messages can be received now or are being handled, ``scheduled`` ones become due later; ``more`` says
    that counting stopped there. ``oldest`` is when the oldest waiting one was put in; None when there is none.
    """

    queue: str
    waiting: int
    scheduled: int
    more: bool
    oldest: datetime | None


class QueueGauge:
    """Measures one queue. Every measurement makes a connection of its own: it is asked for rarely."""

    def __init__(self, connection: ServiceBusConnection, queue: str) -> None:
        self._connection = connection
        self.queue = queue

    def measure(self) -> QueueDepth:
        """The depth now.

        Raises:
            TransportUnavailable: when the service cannot be reached or refuses.
        """
        link = receiver_link(self._connection, self.queue)
        try:
            found = _peeked(link.open())
        except transport_errors() as error:
            raise TransportUnavailable(f"{self.queue} cannot be looked at: {describe(error)}") from error
        finally:
            link.drop()
        return _depth(self.queue, found)


def _peeked(receiver: ServiceBusReceiver) -> list[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    after = 0
    while len(found) <= MOST_COUNTED:
        page = receiver.peek_messages(_PAGE, sequence_number=after + 1)
        if not page:
            break
        found += page
        after = page[-1].sequence_number or after
    return found


def _depth(queue: str, found: list[ServiceBusReceivedMessage]) -> QueueDepth:
    from azure.servicebus import ServiceBusMessageState

    waiting = [one for one in found[:MOST_COUNTED] if one.state is not ServiceBusMessageState.SCHEDULED]
    moments = [one.enqueued_time_utc for one in waiting if one.enqueued_time_utc is not None]
    return QueueDepth(
        queue=queue,
        waiting=len(waiting),
        scheduled=min(len(found), MOST_COUNTED) - len(waiting),
        more=len(found) > MOST_COUNTED,
        oldest=min(moments, default=None),
    )
