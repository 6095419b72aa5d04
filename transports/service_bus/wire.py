"""Messages as Service Bus carries them: body, id and application properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from core.errors import MalformedMessage
from core.messages import JobMessage, Message, StageComplete, TaskEnded, TaskMessage, decode, encode

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage

MAX_DETAIL = 4096
"""Characters of a dead-letter reason and description that the service keeps."""
_MAX_ID = 128


def message_id(message: Message) -> str:
    """Names what the message is about and, for a task, its attempt: the same hint sent twice has one id."""
    match message:
        case TaskMessage(task_id=task_id, attempt=attempt):
            return f"{task_id}:{attempt}"
        case JobMessage(job_id=job_id):
            return f"job:{job_id}"
        case StageComplete(job_id=job_id, completed_stage=stage):
            return f"stage:{job_id}:{stage}"
        case TaskEnded(task_id=task_id):
            return f"ended:{task_id}"
        case _:
            assert_never(message)


def to_wire(message: Message, *, id_suffix: str = "") -> ServiceBusMessage:
    """The SDK's message. Its id lets duplicate detection help where it is on; ``id_suffix`` makes it another one."""
    from azure.servicebus import ServiceBusMessage

    return ServiceBusMessage(
        encode(message),
        message_id=f"{message_id(message)[: _MAX_ID - len(id_suffix)]}{id_suffix}",
        content_type="application/json",
        subject=message.message_type,
        application_properties=_properties(message),
    )


def _properties(message: Message) -> dict[str | bytes, Any]:
    properties: dict[str | bytes, Any] = {"message_type": message.message_type}
    match message:
        case TaskMessage():
            properties |= {"task_type": message.task_type, "job_id": message.parent_job_id}
        case JobMessage() | StageComplete():
            properties |= {"job_type": message.job_type, "job_id": message.job_id}
        case TaskEnded():
            properties |= {"job_id": message.parent_job_id}
        case _:
            assert_never(message)
    if message.traceparent is not None:
        properties["traceparent"] = message.traceparent
    return properties


def from_wire(raw: ServiceBusReceivedMessage) -> Message:
    """The message in what the SDK received.

    Raises:
        MalformedMessage: when it is none of ours; the text names each field that is wrong.
    """
    return decode(body_of(raw))


def body_of(raw: ServiceBusReceivedMessage) -> bytes:
    """The data sections of a message, joined.

    Raises:
        MalformedMessage: when it has none: a value or sequence body of another sender.
    """
    try:
        body = raw.body
        if isinstance(body, str):
            return body.encode()
        if isinstance(body, bytes):
            return body
        parts = list(body)
    except (TypeError, ValueError) as error:
        raise MalformedMessage(f"not a message: the body cannot be read: {error}") from error
    if not all(isinstance(part, bytes) for part in parts):
        raise MalformedMessage("not a message: the body has no data sections")
    return b"".join(parts)
