"""Outcomes to settlements."""

from __future__ import annotations

from typing import assert_never

from core.outcome import (
    Deferred,
    Failed,
    Finished,
    Interrupted,
    Outcome,
    Rejected,
    RetryLater,
    Superseded,
)
from transports.base import Complete, DeadLetter, Retry, Settlement


def settlement_for(outcome: Outcome) -> Settlement:
    """The only place where an outcome becomes a settlement.

    A task that failed, waits for a retry or was interrupted is recorded, and its next hint is in the outbox: this
    message is done with. Only what could not be recorded comes again, and only what names nothing we know is
    dead-lettered.
    """
    match outcome:
        case Finished() | Failed() | RetryLater() | Interrupted() | Superseded():
            return Complete()
        case Deferred(delay=delay):
            return Retry(delay)
        case Rejected(reason=reason, detail=detail):
            return DeadLetter(reason, detail)
        case _:
            assert_never(outcome)
