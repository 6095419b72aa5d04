"""The error tree. Adapters translate foreign exceptions into these at their edge; nothing else crosses a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any


class GeoworkerError(Exception):
    """Base of every error this project raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where, what is wrong, and what was given."""

    field: str
    message: str
    given: Any = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form, as HTTP problem documents carry it."""
        return {"field": self.field, "message": self.message, "given": self.given}


class InvalidInput(GeoworkerError):
    """An input was refused; ``faults`` names every field that is wrong, not just the first."""

    def __init__(self, subject: str, faults: Sequence[Fault]) -> None:
        self.subject = subject
        self.faults = tuple(faults)
        super().__init__(f"{subject}: " + "; ".join(str(fault) for fault in self.faults))


class ConfigurationError(InvalidInput):
    """Settings, registries or routing are inconsistent; the process refuses to start."""


class UnknownJobType(GeoworkerError):
    """No job of that type is registered."""

    def __init__(self, job_type: str, known: Sequence[str]) -> None:
        self.job_type = job_type
        self.known = tuple(sorted(known))
        super().__init__(f"unknown job type {job_type!r}; known: {', '.join(self.known)}")


class UnknownTaskType(GeoworkerError):
    """No handler of that task type is registered."""

    def __init__(self, task_type: str, known: Sequence[str]) -> None:
        self.task_type = task_type
        self.known = tuple(sorted(known))
        super().__init__(f"unknown task type {task_type!r}; known: {', '.join(self.known)}")


class JobNotFound(GeoworkerError):
    """No job has that id."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"no job has the id {job_id!r}")


class TaskNotFound(GeoworkerError):
    """No task has that id."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"no task has the id {task_id!r}")


class DeadLetterNotFound(GeoworkerError):
    """The queue has no dead letter of that number."""

    def __init__(self, queue: str, number: int) -> None:
        self.queue = queue
        self.number = number
        super().__init__(f"queue {queue} has no dead letter {number}")


class Conflict(GeoworkerError):
    """The request contradicts the state that is there (retrying a running job, other parameters under a known id)."""


class IllegalTransition(GeoworkerError):
    """A status change that the table of transitions does not have."""


class MalformedMessage(GeoworkerError):
    """Bytes from a transport that are no message of ours."""


class ClaimLost(GeoworkerError):
    """This execution's fencing token is stale: another attempt owns the task, or it has ended. Stop, settle nothing."""

    def __init__(self, task_id: str, attempt: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        super().__init__(f"attempt {attempt} of task {task_id} no longer holds its claim")


class StoreUnavailable(GeoworkerError):
    """The state store cannot be reached now. Nothing is known to have been written."""


class TransportUnavailable(GeoworkerError):
    """The transport cannot be reached now."""


class HandlerError(GeoworkerError):
    """What a handler raises to say how its failure is to be treated."""


class TransientError(HandlerError):
    """The same call may succeed later: retried with back-off, up to the attempt limit.

    ``retry_after`` is the least delay before the next attempt; ``code`` is as in :class:`PermanentError`.
    """

    def __init__(self, message: str, *, retry_after: timedelta | None = None, code: str | None = None) -> None:
        self.retry_after = retry_after
        self.code = code
        super().__init__(message)


class PermanentError(HandlerError):
    """The same call will fail again: recorded at once, never retried.

    ``code`` is a stable, machine-readable name for the fault (``NOT_A_RASTER``); ``details`` is JSON-ready.
    """

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.details = dict(details or {})
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """How a failure is recorded: type, message and cause, JSON-ready, free of secrets.

    ``retryable`` says whether another attempt can help. ``details`` carries what the kind of failure knows (signal
    name, exit code, peak memory in bytes, last log lines).
    """

    type: str
    message: str
    retryable: bool
    code: str | None = None
    cause: str | None = None
    traceback: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that is stored in ``error_details``."""
        return {
            "type": self.type,
            "message": self.message,
            "retryable": self.retryable,
            "code": self.code,
            "cause": self.cause,
            "traceback": self.traceback,
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ErrorInfo:
        """The inverse of :meth:`as_dict`; unknown keys are ignored."""
        return cls(
            type=data["type"],
            message=data["message"],
            retryable=data["retryable"],
            code=data.get("code"),
            cause=data.get("cause"),
            traceback=data.get("traceback"),
            details=data.get("details") or {},
        )
