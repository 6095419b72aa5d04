"""What travels on a transport: small JSON documents that name rows in the state store and carry nothing else.

A message is a hint. Parameters, results and status are read from the store, so a message stays far below any queue's
size limit and can be lost, doubled or delayed without harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import MalformedMessage

Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:~-]*$")]


class Channel(StrEnum):
    """Where a message is going; a transport maps each channel to a queue, a URL or a deque."""

    JOBS = "jobs"  # JobMessage and StageComplete, to an orchestrator
    FUNCTIONS = "functions"  # tasks of stages that run on functions
    DOCKER = "docker"  # tasks of stages that run on the Docker worker
    CALLBACKS = "callbacks"  # completions, to whoever asked to be called


class _Message(BaseModel):
    # Unknown fields are ignored: a newer sender may add some while an older receiver still runs.
    model_config = ConfigDict(frozen=True, extra="ignore")

    traceparent: str | None = None


class JobMessage(_Message):
    """A job was accepted: plan its first stage."""

    message_type: Literal["job"] = "job"
    job_id: Identifier
    job_type: str


class TaskMessage(_Message):
    """A task is ready to run. ``attempt`` is the number of attempts already begun when the hint was written."""

    message_type: Literal["task"] = "task"
    task_id: Identifier
    parent_job_id: Identifier
    job_type: str
    task_type: str
    stage: int = Field(ge=1)
    task_index: int = Field(default=0, ge=0)
    attempt: int = Field(default=0, ge=0)


class StageComplete(_Message):
    """The last task of a stage has ended: plan the next stage, or finish the job."""

    message_type: Literal["stage_complete"] = "stage_complete"
    job_id: Identifier
    job_type: str
    completed_stage: int = Field(ge=1)
    completed_at: datetime | None = None
    completed_by: str | None = None


class TaskEnded(_Message):
    """A task with a callback address has ended: tell whoever asked. The body is read from the store when it is sent."""

    message_type: Literal["task_ended"] = "task_ended"
    task_id: Identifier
    parent_job_id: Identifier


Message = JobMessage | TaskMessage | StageComplete | TaskEnded

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="message_type")])


def encode(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return message.model_dump_json(exclude_none=True).encode()


def decode(body: bytes | str) -> Message:
    """The message in ``body``.

    Raises:
        MalformedMessage: when the body is no JSON or no message of ours; the text names each field that is wrong.
    """
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        raise _malformed(error) from error


def from_document(document: Mapping[str, Any]) -> Message:
    """The message in a JSON document that was read already (a column of the outbox).

    Raises:
        MalformedMessage: as :func:`decode`.
    """
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        raise _malformed(error) from error


def _malformed(error: ValidationError) -> MalformedMessage:
    faults = "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in error.errors()
    )
    return MalformedMessage(f"not a message: {faults}")
