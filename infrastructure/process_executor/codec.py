"""Claims and executions as JSON frames."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from core.errors import ErrorInfo
from core.ports import Execution, Raised, Returned, Stopped
from core.records import Claim, RunsOn, TaskRecord
from core.states import TaskStatus
from infrastructure.process_executor.framing import ChannelBroken, Frame

_PLAIN_FIELDS = (
    "task_id",
    "job_id",
    "job_type",
    "task_type",
    "stage",
    "task_index",
    "attempt",
    "failures",
    "interruptions",
    "max_attempts",
    "timeout_seconds",
    "traceparent",
)


def claim_to_json(claim: Claim) -> dict[str, Any]:
    """What the child needs of a claim: the task's identity and parameters, and the fencing token."""
    task = claim.task
    return {
        **{name: getattr(task, name) for name in _PLAIN_FIELDS},
        "runs_on": task.runs_on.value,
        "status": task.status.value,
        "parameters": dict(task.parameters),
        "previous_error": task.error_details.as_dict() if task.error_details is not None else None,
        "claim_attempt": claim.attempt,
        "worker_id": claim.worker_id,
        "lease_seconds": claim.lease.total_seconds(),
    }


def claim_from_json(data: Mapping[str, Any]) -> Claim:
    """The inverse of :func:`claim_to_json`."""
    previous = data["previous_error"]
    task = TaskRecord(
        **{name: data[name] for name in _PLAIN_FIELDS},
        runs_on=RunsOn(data["runs_on"]),
        status=TaskStatus(data["status"]),
        parameters=data["parameters"],
        error_details=ErrorInfo.from_dict(previous) if previous is not None else None,
    )
    return Claim(
        task=task,
        attempt=data["claim_attempt"],
        worker_id=data["worker_id"],
        lease=timedelta(seconds=data["lease_seconds"]),
    )


def execution_to_json(execution: Execution) -> Frame:
    """An execution as the frame that reports it."""
    match execution:
        case Returned(result=result):
            return {"type": "returned", "result": result}
        case Raised(error=error, retry_after=retry_after):
            seconds = None if retry_after is None else retry_after.total_seconds()
            return {"type": "raised", "error": error.as_dict(), "retry_after": seconds}
        case Stopped(detail=detail):
            return {"type": "stopped", "detail": detail}


def execution_from_json(frame: Frame) -> Execution:
    """The inverse of :func:`execution_to_json`.

    Raises:
        ChannelBroken: when the frame is none of those.
    """
    try:
        match frame:
            case {"type": "returned", "result": dict(result)}:
                return Returned(result=result)
            case {"type": "raised", "error": dict(error), "retry_after": seconds}:
                retry_after = None if seconds is None else timedelta(seconds=seconds)
                return Raised(error=ErrorInfo.from_dict(error), retry_after=retry_after)
            case {"type": "stopped", "detail": str(detail)}:
                return Stopped(detail=detail)
    except (KeyError, TypeError) as error:
        raise ChannelBroken(f"a malformed {frame['type']} frame: {error!r}") from error
    raise ChannelBroken(f"an unexpected {frame['type']!r} frame")
