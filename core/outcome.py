"""How handling one message can end: a closed union, produced by the machine and settled in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from core.errors import ErrorInfo
from core.stopping import StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Done and committed."""

    result: Mapping[str, Any]
    last_in_stage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Failed for good and committed: a failure is a result."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLater:
    """Failed, and committed to run again after ``delay``; the store has the new hint in its outbox."""

    error: ErrorInfo
    delay: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Nothing could be decided or recorded now (the store is away): the same delivery must come again."""

    delay: timedelta
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """Stopped on request before its end and released without counting a failure."""

    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """Nothing to do: the work is done, cancelled, not due, or another attempt holds a live lease."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """No work of ours: the message names nothing that the store knows, or a type nobody here can run."""

    reason: str
    detail: str


Outcome = Finished | Failed | RetryLater | Deferred | Interrupted | Superseded | Rejected
