"""What a transport is: a source that leases one delivery at a time, and a dispatcher that sends.

A source answers one question, who may run this message and until when, and can be told three things afterwards:
Complete, Retry or DeadLetter. It knows nothing of jobs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from core.dispatch import DispatchResult, Refused, Sent, TryAgain
from core.errors import GeoworkerError
from core.messages import Message

__all__ = [
    "Complete",
    "DeadLetter",
    "Delivery",
    "DeliveryLost",
    "DispatchResult",
    "Refused",
    "Retry",
    "Sent",
    "Settlement",
    "SourceStatus",
    "TaskDispatcher",
    "TaskSource",
    "TryAgain",
]


@dataclass(frozen=True, slots=True)
class Complete:
    """The message is done with and never comes again."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The message comes again, not before ``delay``."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """We could not even record this; a person must look. Kept with its reason."""

    reason: str
    detail: str


Settlement = Complete | Retry | DeadLetter


class DeliveryLost(GeoworkerError):
    """The transport's own lock has run out, or the delivery was settled before: it may be delivered again."""


class Delivery(Protocol):
    """One leased message. ``delivery_count`` is 1 the first time."""

    @property
    def message(self) -> Message: ...

    @property
    def delivery_count(self) -> int: ...

    def renew(self) -> timedelta | None:
        """Extend the transport's lock, if it has one. Raises DeliveryLost when it is gone.

        Answers when to ask again, a third of what the lock lasts; None when it does not matter.
        """
        ...

    def settle(self, settlement: Settlement) -> None:
        """Say how it ended, once. Raises DeliveryLost when the lock is gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """What /health says of a source."""

    connected: bool
    last_poll_at: datetime | None = None
    received: int = 0
    completed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    last_error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class TaskSource(ABC):
    """Leases messages, one at a time. A context manager: entering connects, leaving lets go of everything."""

    @abstractmethod
    def receive(self, timeout: timedelta) -> Delivery | None:
        """The next message, or None when none came within ``timeout``.

        A message that cannot be decoded is dead-lettered by the source and never returned. Connection faults are the
        source's to mend: it backs off, says so in its status and returns None.
        """

    @abstractmethod
    def status(self) -> SourceStatus:
        """Figures for health; never blocks."""

    def wake(self) -> None:  # noqa: B027 - a source without a long poll has nothing to do
        """End a running :meth:`receive` soon (shutdown). Safe from any thread."""

    @abstractmethod
    def open(self) -> None:
        """Connect, or start to."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; leased deliveries come again. Idempotent."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TaskDispatcher(ABC):
    """Sends messages to one place. The outbound twin of a source."""

    @abstractmethod
    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        """Send each message; one result each, in order. Never raises for a fault of the other side."""

    def close(self) -> None:  # noqa: B027 - a dispatcher without connections has nothing to close
        """Let go of connections. Idempotent."""
