"""What a receiver may say about a message it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Complete:
    action = "complete"


@dataclass(frozen=True, slots=True)
class Release:
    """Give it back as if it had never been received: the delivery count stays."""

    action = "release"


@dataclass(frozen=True, slots=True)
class Abandon:
    action = "abandon"
    properties: dict[str, Any] = field(default_factory=dict)
    delivery_failed: bool = True


@dataclass(frozen=True, slots=True)
class Defer:
    action = "defer"
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    action = "dead-letter"
    reason: str | None = None
    description: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)


Settlement = Complete | Release | Abandon | Defer | DeadLetter
