"""ServiceBusSource: peek-locks one message at a time from one queue.

No prefetch, no sessions. One receiver receives and settles; a second one renews (``keeper.py``). What the SDK does
badly is mended here: a message whose link the service detached is settled through a fresh receiver by lock token, a
poll is cut into slices so that a stop ends it, and a receiver that has been silent for long is replaced, because a
half-open connection looks just like an empty queue.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, assert_never

from core.errors import MalformedMessage
from core.messages import Message
from core.retry import Backoff
from transports.base import Complete, DeadLetter, DeliveryLost, Retry, Sent, Settlement, SourceStatus, TaskSource
from transports.service_bus.connection import ServiceBusConnection, describe, transport_errors
from transports.service_bus.dispatcher import ServiceBusDispatcher
from transports.service_bus.figures import Figures
from transports.service_bus.keeper import LockKeeper
from transports.service_bus.link import CLOSING_SECONDS, OpeningInterrupted, receiver_link
from transports.service_bus.wire import MAX_DETAIL, from_wire

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver

logger = logging.getLogger(__name__)

_SLICE = 0.5  # seconds: how soon a stop ends a long poll
_SETTLE_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """``silent_after``: replace a receiver that has brought nothing for so long."""

    max_wait: timedelta = timedelta(seconds=30)
    silent_after: timedelta = timedelta(seconds=120)
    backoff: Backoff = field(default_factory=lambda: Backoff(base=timedelta(seconds=1), cap=timedelta(seconds=30)))


class ServiceBusSource(TaskSource):
    """One queue's messages, one at a time. Used by one loop's thread; renewals come from another."""

    def __init__(
        self,
        connection: ServiceBusConnection,
        queue: str,
        options: SourceOptions | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._queue = queue
        self._options = options or SourceOptions()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._figures = Figures()
        self._link = receiver_link(connection, queue)
        self._keeper = LockKeeper(connection, queue, self._figures)
        self._copies = ServiceBusDispatcher(connection, queue)
        self._faults = 0
        self._last_heard = time.monotonic()
        self._waking = threading.Event()
        self._closed = False

    # --- life

    def open(self) -> None:
        """Connect, or note why not: an unreachable namespace is a state, not an error, and each poll tries again."""
        self._closed = False
        try:
            self._link.open(self._waking)
        except transport_errors() as error:
            self._note_fault(error)
        else:
            self._last_heard = time.monotonic()
            self._on_connected()

    def close(self) -> None:
        if self._link.is_open:
            self._give_back()
        self._closed = True
        closings = [self._link.drop(), self._keeper.close()]
        self._copies.close()
        self._figures.connected = False
        for closing in closings:
            if closing is not None:
                closing.join(CLOSING_SECONDS)

    def _give_back(self) -> None:
        """A credit may still be out: what the service pushed meanwhile goes back at once instead of after its lock."""
        try:
            receiver = self._link.open()
            for message in receiver.receive_messages(max_message_count=1, max_wait_time=0.05):
                receiver.abandon_message(message)
        except transport_errors():
            return

    def wake(self) -> None:
        self._waking.set()

    def status(self) -> SourceStatus:
        return self._figures.status(self._queue)

    # --- receiving

    def receive(self, timeout: timedelta) -> ServiceBusDelivery | None:
        deadline = time.monotonic() + min(timeout, self._options.max_wait).total_seconds()
        while not self._waking.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                raw = self._poll(min(left, _SLICE))
            except OpeningInterrupted:
                break
            except transport_errors() as error:
                self._on_fault(error)
                return None
            delivery = self._read(raw) if raw is not None else None
            if delivery is not None:
                return delivery
        self._waking.clear()
        return None

    def _poll(self, seconds: float) -> ServiceBusReceivedMessage | None:
        silent = time.monotonic() - self._last_heard
        if self._link.is_open and silent > self._options.silent_after.total_seconds():
            self._link.drop()
        if not self._link.is_open:
            self._last_heard = time.monotonic()
        receiver = self._link.open(self._waking)
        self._on_connected()
        messages = receiver.receive_messages(max_message_count=1, max_wait_time=seconds)
        self._figures.last_poll_at = datetime.now(UTC)
        if not messages:
            return None
        self._last_heard = time.monotonic()
        self._figures.received += 1
        return messages[0]

    def _read(self, raw: ServiceBusReceivedMessage) -> ServiceBusDelivery | None:
        """The delivery; None when the message cannot be read and was dead-lettered."""
        count = (raw.delivery_count or 0) + 1  # on the wire the first delivery is number 0
        if count > 1:
            self._figures.redelivered += 1
            logger.info(
                "message delivered again",
                extra={"action": "message.redelivered", "message_id": raw.message_id, "delivery_count": count},
            )
        try:
            message = from_wire(raw)
        except MalformedMessage as error:
            logger.error(  # noqa: TRY400 - the fault is the sender's; a traceback of ours says nothing
                "a message cannot be read: %s",
                error,
                extra={"action": "message.malformed", "message_id": raw.message_id},
            )
            self._bury(raw, DeadLetter("MalformedMessage", str(error)))
            return None
        return ServiceBusDelivery(message, count, raw, self)

    def _bury(self, raw: ServiceBusReceivedMessage, letter: DeadLetter) -> None:
        try:
            self._settle(lambda receiver: self._settle_once(receiver, raw, letter))
        except DeliveryLost as error:  # it comes again and is judged again
            logger.warning("settlement lost: %s", error, extra={"action": "settlement.lost"})

    # --- the connection's state

    def _on_connected(self) -> None:
        if not self._figures.connected:
            self._figures.connected = True
            self._figures.connects += 1
            self._figures.last_error = None
            self._faults = 0
            logger.info("connected to queue %s", self._queue, extra={"action": "queue.connected"})

    def _on_fault(self, error: BaseException) -> None:
        """Say so once, drop the link, and wait with jitter before the next try."""
        self._note_fault(error)
        pause = self._options.backoff.delay(self._faults, self._rng).total_seconds()
        self._waking.wait(max(0.05, pause))

    def _note_fault(self, error: BaseException) -> None:
        text = describe(error)
        if self._figures.connected or self._figures.last_error is None:
            logger.warning("queue %s cannot be read: %s", self._queue, text, extra={"action": "queue.lost"})
        self._figures.connected = False
        self._figures.last_error = text
        self._link.drop()
        self._faults += 1

    # --- what deliveries ask for

    def renew(self, raw: ServiceBusReceivedMessage) -> timedelta:
        """Extend a message's lock; how long until it should be extended again. Raises DeliveryLost when it is gone."""
        return self._keeper.renew(raw)

    def settle(self, raw: ServiceBusReceivedMessage, message: Message, settlement: Settlement) -> None:
        """Settle on the receiver, or by lock token on a fresh one when the link is gone.

        Raises:
            DeliveryLost: when the lock is gone, the source was closed, or the service could not be told in three tries.
        """
        copied = False

        def attempt(receiver: ServiceBusReceiver) -> None:
            nonlocal copied
            if isinstance(settlement, Retry) and settlement.delay > timedelta(0) and not copied:
                # The copy first: dying in between doubles the hint, the other way round would lose it.
                (result,) = self._copies.schedule([message], settlement.delay)
                if not isinstance(result, Sent):
                    raise OSError(f"the copy could not be scheduled: {result.error}")
                copied = True
            self._settle_once(receiver, raw, settlement)

        self._settle(attempt)

    def _settle(self, attempt: Callable[[ServiceBusReceiver], None]) -> None:
        from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

        if self._closed:
            raise DeliveryLost("the source was closed; the message comes again after its lock")
        problem: BaseException | None = None
        for _ in range(_SETTLE_TRIES):
            try:
                attempt(self._link.open())
            except (MessageLockLostError, MessageAlreadySettled) as error:
                self._figures.settlements_lost += 1
                raise DeliveryLost(describe(error)) from error
            except transport_errors() as error:
                problem = error
                self._link.drop()
            else:
                self._last_heard = time.monotonic()
                return
        self._figures.settlements_lost += 1
        raise DeliveryLost(f"the service could not be told: {describe(problem)}") from problem

    def _settle_once(
        self, receiver: ServiceBusReceiver, raw: ServiceBusReceivedMessage, settlement: Settlement
    ) -> None:
        match settlement:
            case Complete():
                receiver.complete_message(raw)
                self._figures.completed += 1
            case Retry(delay=delay) if delay <= timedelta(0):
                receiver.abandon_message(raw)
                self._figures.retried += 1
            case Retry():
                receiver.complete_message(raw)
                self._figures.retried += 1
            case DeadLetter(reason=reason, detail=detail):
                receiver.dead_letter_message(raw, reason=reason[:MAX_DETAIL], error_description=detail[:MAX_DETAIL])
                self._figures.dead_lettered += 1
            case _:
                assert_never(settlement)


@dataclass(slots=True)
class ServiceBusDelivery:
    """A peek-locked message."""

    message: Message
    delivery_count: int
    _raw: ServiceBusReceivedMessage
    _source: ServiceBusSource
    _received_at: float = field(default_factory=time.monotonic)
    _renewals: int = 0

    def renew(self) -> timedelta:
        """Extend the lock; how long until it should be extended again. Raises DeliveryLost when it is gone."""
        following = self._source.renew(self._raw)
        self._renewals += 1
        return following

    def settle(self, settlement: Settlement) -> None:
        """Settle, once. Raises DeliveryLost when the lock is gone."""
        self._source.settle(self._raw, self.message, settlement)
        if self._renewals:
            logger.info(
                "a long-held message is settled",
                extra={
                    "action": "message.settled",
                    "message_id": self._raw.message_id,
                    "settlement": type(settlement).__name__,
                    "held_seconds": round(time.monotonic() - self._received_at, 1),
                    "renewals": self._renewals,
                    "delivery_count": self.delivery_count,
                },
            )
