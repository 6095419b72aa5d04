"""One queue: what is in it, who holds what until when. No I/O, no threads; time comes from the clock it is given."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, assert_never
from uuid import UUID, uuid4

from testing.emulator.clock import Clock, utc
from testing.emulator.codec import Int, Symbol, Timestamp
from testing.emulator.conditions import ARGUMENT_ERROR, MESSAGE_NOT_FOUND, NOT_ALLOWED, Refusal, lock_lost
from testing.emulator.config import QueueConfig
from testing.emulator.message import Message
from testing.emulator.performatives import text, timestamp
from testing.emulator.records import DeliveryRecord, MessageState, RenewalRecord, SettlementRecord, StoredMessage
from testing.emulator.settlements import Abandon, Complete, DeadLetter, Defer, Release, Settlement

SCHEDULED_ANNOTATION = "x-opt-scheduled-enqueue-time"
DEAD_LETTER_SUFFIX = "$DeadLetterQueue"
REASON_PROPERTY, DESCRIPTION_PROPERTY = "DeadLetterReason", "DeadLetterErrorDescription"

_ENQUEUED, _SEQUENCE = Symbol("x-opt-enqueued-time"), Symbol("x-opt-sequence-number")
_ORIGINAL_SEQUENCE, _LOCKED_UNTIL = Symbol("x-opt-enqueue-sequence-number"), Symbol("x-opt-locked-until")
_STATE, _SOURCE = Symbol("x-opt-message-state"), Symbol("x-opt-deadletter-source")
_STATE_CODES = {MessageState.DEFERRED: 1, MessageState.SCHEDULED: 2}
_HISTORY = 100_000


@dataclass(slots=True, eq=False)
class Entry:
    """A message in the queue. It is gone from the queue when the queue no longer maps its number to it."""

    message: Message
    sequence_number: int
    original_sequence_number: int
    enqueued_at: float
    expires_at: float | None
    state: MessageState
    delivery_count: int = 0
    scheduled_at: float | None = None
    lock_token: UUID | None = None
    locked_until: float = 0.0
    was_deferred: bool = False
    dead_letter_source: str | None = None

    def encoded(self) -> bytes:
        """The bytes that a receiver gets."""
        notes: dict[Symbol, Any] = {
            _ENQUEUED: timestamp(self.enqueued_at),
            _SEQUENCE: self.sequence_number,
            _ORIGINAL_SEQUENCE: self.original_sequence_number,
        }
        if self.lock_token is not None:
            notes[_LOCKED_UNTIL] = timestamp(self.locked_until)
        if self.state in _STATE_CODES:
            notes[_STATE] = Int(_STATE_CODES[self.state])
        if self.dead_letter_source is not None:
            notes[_SOURCE] = self.dead_letter_source
        return self.message.encode(delivery_count=self.delivery_count, annotations=notes)

    def describe(self) -> StoredMessage:
        properties = {str(key): value for key, value in self.message.application_properties.items()}
        return StoredMessage(
            sequence_number=self.sequence_number,
            message_id=self.message.message_id,
            body=self.message.body(),
            state=self.state,
            delivery_count=self.delivery_count,
            enqueued_at=utc(self.enqueued_at),
            locked_until=utc(self.locked_until) if self.lock_token is not None else None,
            scheduled_for=utc(self.scheduled_at) if self.scheduled_at is not None else None,
            application_properties=properties,
            dead_letter_reason=text(properties.get(REASON_PROPERTY)),
            dead_letter_description=text(properties.get(DESCRIPTION_PROPERTY)),
        )


class Consumer(Protocol):
    """A receiver with an open link."""

    destructive: bool
    """It receives and deletes instead of locking."""

    def wants(self) -> bool:
        """It has credit left."""
        ...

    def deliver(self, queue: Queue, entry: Entry) -> None: ...


class Queue:
    """A queue and, unless it is one itself, its dead-letter queue.

    Every method that takes a lock token raises Refusal (message-lock-lost) when the lock is not held any more.
    """

    def __init__(self, config: QueueConfig, clock: Clock, *, dead_letters: bool = True) -> None:
        self.config = config
        self.name = config.name if dead_letters else f"{config.name}/{DEAD_LETTER_SUFFIX}"
        self.dead_letters = Queue(_for_dead_letters(config), clock, dead_letters=False) if dead_letters else None
        self.consumers: deque[Consumer] = deque()
        self.deliveries: deque[DeliveryRecord] = deque(maxlen=_HISTORY)
        self.renewals: deque[RenewalRecord] = deque(maxlen=_HISTORY)
        self.settlements: deque[SettlementRecord] = deque(maxlen=_HISTORY)
        self._clock = clock
        self._entries: dict[int, Entry] = {}
        self._ready: list[int] = []
        self._locks: dict[UUID, Entry] = {}
        self._due: list[tuple[float, int]] = []
        self._seen: dict[Any, float] = {}
        self._last_sequence_number = 0

    # --- in

    def enqueue(self, message: Message) -> int | None:
        """Take a message in; its number, or None when duplicate detection has dropped it."""
        at = message.annotations.get(SCHEDULED_ANNOTATION)
        now = self._clock.now()
        if self._is_duplicate(message.message_id, now):
            return None
        if isinstance(at, Timestamp) and at / 1000 > now:
            return self._schedule(message, at / 1000)
        return self._append(message, now).sequence_number

    def schedule(self, message: Message) -> int:
        """Hold a message until the time its annotation names. Raises Refusal when it names none."""
        at = message.annotations.get(SCHEDULED_ANNOTATION)
        if not isinstance(at, Timestamp):
            raise Refusal(ARGUMENT_ERROR, f"The message has no {SCHEDULED_ANNOTATION}")
        self._is_duplicate(message.message_id, self._clock.now())
        return self._schedule(message, at / 1000)

    def cancel_scheduled(self, sequence_numbers: Sequence[int]) -> None:
        """Drop scheduled messages. Raises Refusal when one of them is not there, having dropped none."""
        for entry in self._find(sequence_numbers, MessageState.SCHEDULED):
            del self._entries[entry.sequence_number]

    # --- out

    def pump(self) -> None:
        """Hand ready messages to consumers with credit, in turn."""
        while self._peek_ready() is not None:
            consumer = next((one for one in self.consumers if one.wants()), None)
            if consumer is None:
                return
            self.consumers.remove(consumer)
            self.consumers.append(consumer)
            entry = self._entries[heapq.heappop(self._ready)]
            if consumer.destructive:
                del self._entries[entry.sequence_number]
            else:
                self._lock(entry)
            self._note_delivery(entry)
            consumer.deliver(self, entry)

    def receive_deferred(self, sequence_numbers: Sequence[int], *, destructive: bool) -> list[Entry]:
        """Hand over deferred messages by number. Raises Refusal when one of them is not there."""
        found = self._find(sequence_numbers, MessageState.DEFERRED)
        for entry in found:
            if destructive:
                del self._entries[entry.sequence_number]
            else:
                entry.was_deferred = True
                self._lock(entry)
            self._note_delivery(entry)
        return found

    def settle(self, token: UUID, settlement: Settlement) -> None:
        entry = self._locks.get(token)
        if entry is None or entry.locked_until <= self._clock.now():
            self._note_settlement(token, entry, settlement, refused=True)
            raise lock_lost(token)
        if isinstance(settlement, DeadLetter) and self.dead_letters is None:
            raise Refusal(NOT_ALLOWED, "A message of a dead-letter queue cannot be dead-lettered again")
        self._note_settlement(token, entry, settlement, refused=False)
        self._unlock(entry)
        match settlement:
            case Complete():
                del self._entries[entry.sequence_number]
            case Release():
                self._make_ready(entry)
            case Abandon(properties, delivery_failed):
                entry.message = _extended(entry.message, properties)
                self._give_back(entry, failed=delivery_failed)
            case Defer(properties):
                entry.message = _extended(entry.message, properties)
                entry.delivery_count += 1
                entry.state = MessageState.DEFERRED
            case DeadLetter(reason, description, properties):
                entry.message = _extended(entry.message, properties)
                self._bury(entry, reason, description)
            case _:
                assert_never(settlement)

    def renew(self, token: UUID, *, refused: Refusal | None = None) -> float:
        """Hold the lock for another lock duration from now; the time it then ends. ``refused`` refuses on purpose."""
        entry = self._locks.get(token)
        now = self._clock.now()
        if refused is None and (entry is None or entry.locked_until <= now):
            refused = lock_lost(token)
        message_id = entry.message.message_id if entry is not None else None
        condition = refused.condition if refused is not None else None
        self.renewals.append(RenewalRecord(self.name, token, message_id, utc(now), condition))
        if refused is not None or entry is None:
            raise refused or lock_lost(token)
        self._hold(entry, now)
        return entry.locked_until

    # --- looking

    def peek(self, from_sequence_number: int, limit: int) -> list[Entry]:
        """Messages in any state from a number on, in order."""
        found = [entry for number, entry in self._entries.items() if number >= from_sequence_number]
        return sorted(found, key=lambda entry: entry.sequence_number)[:limit]

    def count(self, state: MessageState) -> int:
        return sum(entry.state is state for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def purge(self) -> int:
        """Drop every message, locked, scheduled and deferred ones too; how many there were."""
        dropped = len(self._entries)
        self._entries.clear()
        self._ready.clear()
        self._locks.clear()
        self._due.clear()
        return dropped

    # --- time

    def next_due(self) -> float | None:
        """When :meth:`tick` has something to do next."""
        return self._due[0][0] if self._due else None

    def tick(self) -> None:
        """Let what is due happen: locks end, scheduled messages become active, messages expire."""
        now = self._clock.now()
        while self._due and self._due[0][0] <= now:
            _, number = heapq.heappop(self._due)
            entry = self._entries.get(number)
            if entry is not None:
                self._ripen(entry, now)
        self.pump()

    def _ripen(self, entry: Entry, now: float) -> None:
        match entry.state:
            case MessageState.LOCKED if entry.locked_until <= now:
                self._unlock(entry)
                self._give_back(entry, failed=True)
            case MessageState.SCHEDULED if entry.scheduled_at is not None and entry.scheduled_at <= now:
                del self._entries[entry.sequence_number]
                self._append(entry.message, now, original=entry.sequence_number)
            case MessageState.ACTIVE if entry.expires_at is not None and entry.expires_at <= now:
                self._expire(entry)
            case _:
                pass

    # --- within

    def _append(self, message: Message, now: float, *, original: int | None = None) -> Entry:
        lifetime = message.ttl_milliseconds / 1000 if message.ttl_milliseconds is not None else None
        default = self.config.default_message_time_to_live
        if default is not None:
            lifetime = min(lifetime, default.total_seconds()) if lifetime is not None else default.total_seconds()
        number = self._number()
        expires_at = None if lifetime is None else now + lifetime
        entry = Entry(message, number, original or number, now, expires_at, MessageState.ACTIVE)
        self._entries[number] = entry
        heapq.heappush(self._ready, number)
        if expires_at is not None:
            heapq.heappush(self._due, (expires_at, number))
        return entry

    def _schedule(self, message: Message, at: float) -> int:
        number = self._number()
        now = self._clock.now()
        self._entries[number] = Entry(message, number, number, now, None, MessageState.SCHEDULED, scheduled_at=at)
        heapq.heappush(self._due, (at, number))
        return number

    def _number(self) -> int:
        self._last_sequence_number += 1
        return self._last_sequence_number

    def _is_duplicate(self, message_id: Any, now: float) -> bool:
        if not self.config.requires_duplicate_detection or message_id is None:
            return False
        horizon = now - self.config.duplicate_detection_history_time_window.total_seconds()
        while self._seen and next(iter(self._seen.values())) < horizon:
            del self._seen[next(iter(self._seen))]
        known = message_id in self._seen
        self._seen.setdefault(message_id, now)
        return known

    def _peek_ready(self) -> int | None:
        now = self._clock.now()
        while self._ready:
            entry = self._entries.get(self._ready[0])
            if entry is not None and entry.state is MessageState.ACTIVE:
                if entry.expires_at is None or entry.expires_at > now:
                    return entry.sequence_number
                self._expire(entry)
            heapq.heappop(self._ready)
        return None

    def _find(self, sequence_numbers: Sequence[int], state: MessageState) -> list[Entry]:
        found = []
        for number in sequence_numbers:
            entry = self._entries.get(number)
            if entry is None or entry.state is not state:
                raise Refusal(MESSAGE_NOT_FOUND, f"The queue has no {state} message with the sequence number {number}")
            found.append(entry)
        return found

    def _lock(self, entry: Entry) -> None:
        entry.lock_token = uuid4()
        entry.state = MessageState.LOCKED
        self._locks[entry.lock_token] = entry
        self._hold(entry, self._clock.now())

    def _hold(self, entry: Entry, now: float) -> None:
        entry.locked_until = now + self.config.lock_duration.total_seconds()
        heapq.heappush(self._due, (entry.locked_until, entry.sequence_number))

    def _unlock(self, entry: Entry) -> None:
        if entry.lock_token is not None:
            del self._locks[entry.lock_token]
        entry.lock_token = None

    def _make_ready(self, entry: Entry) -> None:
        entry.state = MessageState.DEFERRED if entry.was_deferred else MessageState.ACTIVE
        if not entry.was_deferred:
            heapq.heappush(self._ready, entry.sequence_number)

    def _give_back(self, entry: Entry, *, failed: bool) -> None:
        entry.delivery_count += failed
        limit = self.config.max_delivery_count
        if failed and entry.delivery_count >= limit and self.dead_letters is not None:
            words = f"Message could not be consumed after {limit} delivery attempts."
            self._bury(entry, "MaxDeliveryCountExceeded", words)
        else:
            self._make_ready(entry)

    def _expire(self, entry: Entry) -> None:
        if self.config.dead_lettering_on_message_expiration and self.dead_letters is not None:
            self._bury(entry, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            del self._entries[entry.sequence_number]

    def _bury(self, entry: Entry, reason: str | None, description: str | None) -> None:
        del self._entries[entry.sequence_number]
        if self.dead_letters is None:
            raise AssertionError("a dead-letter queue has no dead-letter queue")
        found = {REASON_PROPERTY: reason, DESCRIPTION_PROPERTY: description}
        message = _extended(entry.message, {key: value for key, value in found.items() if value is not None})
        grave = self.dead_letters
        buried = grave._append(message, entry.enqueued_at, original=entry.original_sequence_number)
        buried.expires_at = None
        buried.delivery_count = entry.delivery_count
        buried.dead_letter_source = self.name
        grave.pump()

    def _note_delivery(self, entry: Entry) -> None:
        self.deliveries.append(
            DeliveryRecord(
                queue=self.name,
                sequence_number=entry.sequence_number,
                message_id=entry.message.message_id,
                delivery_count=entry.delivery_count,
                lock_token=entry.lock_token,
                at=utc(self._clock.now()),
            )
        )

    def _note_settlement(self, token: UUID, entry: Entry | None, settlement: Settlement, *, refused: bool) -> None:
        self.settlements.append(
            SettlementRecord(
                queue=self.name,
                lock_token=token,
                message_id=entry.message.message_id if entry is not None else None,
                action=settlement.action,
                at=utc(self._clock.now()),
                refused=lock_lost(token).condition if refused else None,
            )
        )


def _for_dead_letters(config: QueueConfig) -> QueueConfig:
    return replace(config, default_message_time_to_live=None, requires_duplicate_detection=False)


def _extended(message: Message, properties: dict[str, Any]) -> Message:
    return message.with_application_properties(properties) if properties else message
