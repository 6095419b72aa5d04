"""Service Bus queues on the official SDK.

No AutoLockRenewer (it drops locks silently after a reconnect), no prefetch, no sessions. One receiver receives and
settles; a second one, opened early and used by the heartbeat's thread alone, renews. What the SDK does badly is mended
here: a link that the service detached is settled through a fresh receiver by lock token, a poll is cut into slices so
that a stop ends it, and a receiver that has been silent for long is replaced, because a half-open connection looks
just like an empty queue.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_never

from core.errors import MalformedMessage
from core.messages import JobMessage, Message, StageComplete, TaskEnded, TaskMessage, decode, encode
from core.retry import Backoff
from transports.base import (
    Complete,
    DeadLetter,
    DeliveryLost,
    DispatchResult,
    Refused,
    Retry,
    Sent,
    Settlement,
    SourceStatus,
    TaskDispatcher,
    TaskSource,
    TryAgain,
)
from transports.service_bus_connection import Closable, ServiceBusConnection, quietly, socket_of, transport_errors

if TYPE_CHECKING:
    from azure.servicebus import (
        ServiceBusClient,
        ServiceBusMessage,
        ServiceBusMessageBatch,
        ServiceBusReceivedMessage,
        ServiceBusReceiver,
        ServiceBusSender,
    )

logger = logging.getLogger(__name__)

_SLICE = 0.5  # seconds: how soon a stop ends a long poll
_SETTLE_TRIES = 3
_CLOSING = 5.0  # seconds that closing a source may take: an orderly close gives back what was on its way
_BATCH_SLACK = 64  # a batch keeps 1/64 of the limit free: the SDK's sum leaves out a few bytes of what it sends
_MAX_DETAIL = 4096  # characters of a dead-letter description the service keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """``silent_after``: replace a receiver that has brought nothing for so long."""

    max_wait: timedelta = timedelta(seconds=30)
    silent_after: timedelta = timedelta(seconds=120)
    backoff: Backoff = field(default_factory=lambda: Backoff(base=timedelta(seconds=1), cap=timedelta(seconds=30)))


class _Link:
    """A receiver with a client of its own, made when needed and thrown away at the first fault."""

    def __init__(self, connection: ServiceBusConnection, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self._client: ServiceBusClient | None = None
        self._receiver: ServiceBusReceiver | None = None
        self._socket: Closable | None = None

    @property
    def is_open(self) -> bool:
        return self._receiver is not None

    def receiver(self) -> ServiceBusReceiver:
        if self._receiver is None:
            self._client = self._connection.client()
            # The wait for a settlement's outcome is the receiver's option; the client's does not reach it.
            receiver = self._client.get_queue_receiver(
                self._queue, prefetch_count=0, timeout=self._connection.settlement_timeout
            )
            try:
                receiver.__enter__()
            except BaseException:
                self._receiver = receiver
                self.drop()
                raise
            self._receiver = receiver
            self._socket = socket_of(receiver)
        return self._receiver

    def drop(self) -> threading.Thread | None:
        """Let go at once; the closing itself, which a half-open connection holds up for half a minute, runs apart."""
        parts = [part for part in (self._receiver, self._client, self._socket) if part is not None]
        self._receiver = self._client = self._socket = None
        return _close_apart(parts)


def _close_apart(parts: Sequence[Closable]) -> threading.Thread | None:
    if not parts:
        return None

    def close() -> None:
        for part in parts:
            quietly(part.close)

    closing = threading.Thread(target=close, name="link-closing", daemon=True)
    closing.start()
    return closing


@dataclass(slots=True)
class _Figures:
    connected: bool = False
    last_poll_at: datetime | None = None
    received: int = 0
    completed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    redelivered: int = 0
    renewals: int = 0
    locks_lost: int = 0
    reconnects: int = 0
    last_error: str | None = None


class ServiceBusSource(TaskSource):
    """Peek-locks one message at a time from one queue. Used by one loop's thread; renewals come from another."""

    def __init__(
        self,
        connection: ServiceBusConnection,
        queue: str,
        options: SourceOptions | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._options = options or SourceOptions()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._link = _Link(connection, queue)
        self._keeper = _Link(connection, queue)
        self._keeper_lock = threading.Lock()
        self._figures = _Figures()
        self._faults = 0
        self._last_heard = time.monotonic()
        self._waking = threading.Event()
        self._closed = False

    def open(self) -> None:
        """Connect, or note why not: an unreachable namespace is a state, not an error, and each poll tries again."""
        self._closed = False
        try:
            self._link.receiver()
        except transport_errors() as error:
            self._note_fault(error)
        else:
            self._last_heard = time.monotonic()
            self._on_connected()

    def close(self) -> None:
        if self._link.is_open:
            self._give_back()
        self._closed = True
        closings = [self._link.drop()]
        with self._keeper_lock:
            closings.append(self._keeper.drop())
        self._figures.connected = False
        for closing in closings:
            if closing is not None:
                closing.join(_CLOSING)

    def _give_back(self) -> None:
        """A credit may still be out: what the service pushed meanwhile goes back at once instead of after its lock."""
        try:
            receiver = self._link.receiver()
            for message in receiver.receive_messages(max_message_count=1, max_wait_time=0.05):
                receiver.abandon_message(message)
        except transport_errors():
            return

    def wake(self) -> None:
        self._waking.set()

    def receive(self, timeout: timedelta) -> ServiceBusDelivery | None:
        deadline = time.monotonic() + min(timeout, self._options.max_wait).total_seconds()
        while not self._waking.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                delivery = self._poll(min(left, _SLICE))
            except transport_errors() as error:
                self._on_fault(error)
                return None
            if delivery is not None:
                return delivery
        self._waking.clear()
        return None

    def _poll(self, seconds: float) -> ServiceBusDelivery | None:
        silent = time.monotonic() - self._last_heard
        if self._link.is_open and silent > self._options.silent_after.total_seconds():
            self._link.drop()
        if not self._link.is_open:
            self._last_heard = time.monotonic()
        receiver = self._link.receiver()
        self._on_connected()
        messages = receiver.receive_messages(max_message_count=1, max_wait_time=seconds)
        self._figures.last_poll_at = datetime.now(UTC)
        if not messages:
            return None
        self._last_heard = time.monotonic()
        raw = messages[0]
        self._figures.received += 1
        count = (raw.delivery_count or 0) + 1
        if count > 1:
            self._figures.redelivered += 1
            logger.info(
                "message delivered again",
                extra={"action": "message.redelivered", "message_id": raw.message_id, "delivery_count": count},
            )
        try:
            message = decode(b"".join(_body(raw)))
        except (MalformedMessage, TypeError, ValueError) as error:
            self._bury(raw, str(error))
            return None
        return ServiceBusDelivery(message, count, raw, self)

    def _bury(self, raw: ServiceBusReceivedMessage, detail: str) -> None:
        logger.error("a message cannot be read: %s", detail, extra={"action": "message.malformed"})
        try:
            self.settle(raw, DeadLetter("MalformedMessage", detail))
        except DeliveryLost as error:  # it comes again and is judged again
            logger.warning("settlement lost: %s", error, extra={"action": "settlement.lost"})

    def _on_connected(self) -> None:
        if not self._figures.connected:
            self._figures.connected = True
            self._figures.reconnects += 1
            self._figures.last_error = None
            self._faults = 0
            logger.info("connected to queue %s", self._queue, extra={"action": "queue.connected"})

    def _on_fault(self, error: BaseException) -> None:
        """Say so once, drop the link, and wait with jitter before the next try."""
        self._note_fault(error)
        pause = self._options.backoff.delay(self._faults, self._rng).total_seconds()
        self._waking.wait(max(0.05, pause))

    def _note_fault(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {_first_line(error)}"
        if self._figures.connected or self._figures.last_error is None:
            logger.warning("queue %s cannot be read: %s", self._queue, text, extra={"action": "queue.lost"})
        self._figures.connected = False
        self._figures.last_error = text
        self._link.drop()
        self._faults += 1

    def renew(self, raw: ServiceBusReceivedMessage) -> None:
        """Extend a message's lock through the keeper; a faulty one is replaced and asked once more.

        A service that cannot be reached is no error: the lock may outlast the fault, and the next heartbeat asks again.

        Raises:
            DeliveryLost: when the lock is gone.
        """
        from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

        with self._keeper_lock:
            for last_try in (False, True):
                try:
                    self._keeper.receiver().renew_message_lock(raw, timeout=self._connection.try_timeout)
                except (MessageLockLostError, MessageAlreadySettled) as error:
                    self._figures.locks_lost += 1
                    raise DeliveryLost(_first_line(error)) from error
                except transport_errors() as error:
                    self._keeper.drop()
                    if last_try:
                        logger.warning(
                            "a lock could not be renewed: %s", _first_line(error), extra={"action": "lock.unrenewed"}
                        )
                else:
                    self._figures.renewals += 1
                    logger.debug("lock renewed", extra={"action": "lock.renewed", "message_id": raw.message_id})
                    return

    def settle(self, raw: ServiceBusReceivedMessage, settlement: Settlement) -> None:
        """Settle on the receiver, or by lock token on a fresh one when the link is gone.

        Raises:
            DeliveryLost: when the lock is gone, the source was closed, or the service could not be told in three tries.
        """
        from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

        if self._closed:
            raise DeliveryLost("the source was closed; the message comes again after its lock")
        problem: BaseException | None = None
        copied = False
        for _ in range(_SETTLE_TRIES):
            try:
                if isinstance(settlement, Retry) and settlement.delay > timedelta(0) and not copied:
                    # The copy first: dying in between doubles the hint, the other way round would lose it.
                    self._schedule_copy(raw, settlement.delay)
                    copied = True
                self._settle_once(self._link.receiver(), raw, settlement)
            except (MessageLockLostError, MessageAlreadySettled) as error:
                self._figures.locks_lost += 1
                raise DeliveryLost(_first_line(error)) from error
            except transport_errors() as error:
                problem = error
                self._link.drop()
            else:
                self._last_heard = time.monotonic()
                return
        self._figures.locks_lost += 1
        raise DeliveryLost(f"the service could not be told: {_first_line(problem)}") from problem

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
                receiver.dead_letter_message(raw, reason=reason, error_description=detail[:_MAX_DETAIL])
                self._figures.dead_lettered += 1
            case _:
                assert_never(settlement)

    def _schedule_copy(self, raw: ServiceBusReceivedMessage, delay: timedelta) -> None:
        from azure.servicebus import ServiceBusMessage

        copy = ServiceBusMessage(
            b"".join(_body(raw)),
            content_type=raw.content_type,
            subject=raw.subject,
            application_properties=raw.application_properties,
        )
        with self._connection.client() as client, client.get_queue_sender(self._queue) as sender:
            sender.schedule_messages(copy, datetime.now(UTC) + delay)

    def status(self) -> SourceStatus:
        figures = self._figures
        return SourceStatus(
            connected=figures.connected,
            last_poll_at=figures.last_poll_at,
            received=figures.received,
            completed=figures.completed,
            retried=figures.retried,
            dead_lettered=figures.dead_lettered,
            last_error=figures.last_error,
            details={
                "queue": self._queue,
                "redelivered": figures.redelivered,
                "lock_renewals": figures.renewals,
                "locks_lost": figures.locks_lost,
                "connects": figures.reconnects,
            },
        )


@dataclass(frozen=True, slots=True)
class ServiceBusDelivery:
    """A peek-locked message."""

    message: Message
    delivery_count: int
    _raw: ServiceBusReceivedMessage
    _source: ServiceBusSource

    def renew(self) -> None:
        """Extend the lock. Raises DeliveryLost when it is gone."""
        self._source.renew(self._raw)

    def settle(self, settlement: Settlement) -> None:
        """Settle, once. Raises DeliveryLost when the lock is gone."""
        self._source.settle(self._raw, settlement)


class ServiceBusDispatcher(TaskDispatcher):
    """Sends to one queue in batches within the size limit. Any thread may send; the SDK's sender is used by one."""

    def __init__(self, connection: ServiceBusConnection, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self._lock = threading.Lock()
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._socket: Closable | None = None

    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        """Send each message; one that is too large for the queue is refused, a fault of the service is tried again."""
        results: list[DispatchResult | None] = [None] * len(messages)
        with self._lock:
            try:
                self._send(messages, results)
            except transport_errors() as error:
                text = f"{type(error).__name__}: {_first_line(error)}"
                logger.warning("queue %s takes no messages: %s", self._queue, text, extra={"action": "queue.unsent"})
                self._drop()
                return [result or TryAgain(text) for result in results]
        return [result or Sent() for result in results]

    def _send(self, messages: Sequence[Message], results: list[DispatchResult | None]) -> None:
        from azure.servicebus.exceptions import MessageSizeExceededError

        sender = self._open()
        limit = sender.create_message_batch().max_size_in_bytes
        batch = _batch(sender, limit)
        members: list[int] = []

        def send_batch() -> None:
            if members:
                sender.send_messages(batch)
                for member in members:
                    results[member] = Sent()

        for index, message in enumerate(messages):
            wire = _wire(message)
            try:
                batch.add_message(wire)
            except MessageSizeExceededError:
                send_batch()
                batch, members = _batch(sender, limit), []
                try:
                    batch.add_message(wire)
                except MessageSizeExceededError:
                    results[index] = Refused("the message is larger than the queue takes")
                    continue
            members.append(index)
        send_batch()

    def _open(self) -> ServiceBusSender:
        if self._sender is None:
            self._client = self._connection.client()
            self._sender = self._client.get_queue_sender(self._queue)
            self._sender.__enter__()
            self._socket = socket_of(self._sender)
        return self._sender

    def _drop(self) -> threading.Thread | None:
        parts = [part for part in (self._sender, self._client, self._socket) if part is not None]
        self._sender = self._client = self._socket = None
        return _close_apart(parts)

    def close(self) -> None:
        """Close the sender. Idempotent."""
        with self._lock:
            closing = self._drop()
        if closing is not None:
            closing.join(_CLOSING)


def _batch(sender: ServiceBusSender, limit: int) -> ServiceBusMessageBatch:
    return sender.create_message_batch(max_size_in_bytes=limit - limit // _BATCH_SLACK)


def _wire(message: Message) -> ServiceBusMessage:
    """The message as Service Bus carries it; its id names task and attempt, so that duplicate detection helps."""
    from azure.servicebus import ServiceBusMessage

    properties: dict[str | bytes, Any] = {"message_type": message.message_type}
    match message:
        case TaskMessage():
            message_id = f"{message.task_id}:{message.attempt}"
            properties |= {"task_type": message.task_type, "job_id": message.parent_job_id}
        case JobMessage():
            message_id = f"job:{message.job_id}"
            properties |= {"job_type": message.job_type, "job_id": message.job_id}
        case StageComplete():
            message_id = f"stage:{message.job_id}:{message.completed_stage}"
            properties |= {"job_type": message.job_type, "job_id": message.job_id}
        case TaskEnded():
            message_id = f"ended:{message.task_id}"
            properties |= {"job_id": message.parent_job_id}
        case _:
            assert_never(message)
    if message.traceparent is not None:
        properties["traceparent"] = message.traceparent
    return ServiceBusMessage(
        encode(message),
        message_id=message_id[:128],
        content_type="application/json",
        subject=message.message_type,
        application_properties=properties,
    )


def _body(raw: ServiceBusReceivedMessage) -> list[bytes]:
    """The data sections of a message; a value or sequence body of another sender is no message of ours."""
    body = raw.body
    if isinstance(body, str):
        return [body.encode()]
    if isinstance(body, bytes):
        return [body]
    parts = list(body)
    if not all(isinstance(part, bytes) for part in parts):
        raise MalformedMessage("not a message: the body has no data sections")
    return parts


def _first_line(error: BaseException | None) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:500]
