"""How sending a message can end, and what sends: the outbound seam between the relay and the transports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol

from core.messages import Message


@dataclass(frozen=True, slots=True)
class Sent:
    """The transport has durably taken the message."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Not sent; worth another try, not before ``after`` when the other side said so."""

    error: str
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Not sent, and never will be: the other side refuses this message for good."""

    error: str


DispatchResult = Sent | TryAgain | Refused


class Dispatcher(Protocol):
    """Sends messages to one place."""

    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        """Send each message; one result each, in order. Never raises for a fault of the other side."""
        ...

    def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


def retry_after(value: str | None) -> timedelta | None:
    """A Retry-After header: seconds or an HTTP date (RFC 9110 section 10.2.3); None when it is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return timedelta(seconds=min(int(value), 86_400))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(timedelta(0), moment - datetime.now(UTC))
