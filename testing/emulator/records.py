"""What the emulator tells about itself: values a test compares with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class MessageState(StrEnum):
    ACTIVE = "active"
    LOCKED = "locked"
    SCHEDULED = "scheduled"
    DEFERRED = "deferred"


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages a queue holds, by state; ``dead_letter`` counts those of its dead-letter queue in any state."""

    active: int = 0
    locked: int = 0
    scheduled: int = 0
    deferred: int = 0
    dead_letter: int = 0

    @property
    def total(self) -> int:
        """All but the dead letters."""
        return self.active + self.locked + self.scheduled + self.deferred


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies in a queue."""

    sequence_number: int
    message_id: Any
    body: Any
    state: MessageState
    delivery_count: int
    enqueued_at: datetime
    locked_until: datetime | None
    scheduled_for: datetime | None
    application_properties: dict[str, Any] = field(default_factory=dict)
    dead_letter_reason: str | None = None
    dead_letter_description: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One hand-over to a receiver; ``delivery_count`` is the number of failed ones before it."""

    queue: str
    sequence_number: int
    message_id: Any
    delivery_count: int
    lock_token: UUID | None
    at: datetime


@dataclass(frozen=True, slots=True)
class RenewalRecord:
    """One lock renewal asked for; ``refused`` is the condition it was refused with, or None."""

    queue: str
    lock_token: UUID
    message_id: Any
    at: datetime
    refused: str | None


@dataclass(frozen=True, slots=True)
class SettlementRecord:
    """One settlement asked for: complete, abandon, defer, dead-letter or release; ``refused`` as for a renewal."""

    queue: str
    lock_token: UUID
    message_id: Any
    action: str
    at: datetime
    refused: str | None
