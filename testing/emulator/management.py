"""The ``$management`` node of a queue: requests as maps, answers as a status and a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from testing.emulator.codec import Array, CodecError, Int, Symbol, Timestamp
from testing.emulator.conditions import ARGUMENT_ERROR, DECODE_ERROR, MESSAGE_NOT_FOUND, NOT_IMPLEMENTED, Refusal
from testing.emulator.faults import Faults
from testing.emulator.message import Message, parse_message, response_message
from testing.emulator.performatives import text, timestamp
from testing.emulator.queue import Entry, Queue
from testing.emulator.settlements import Abandon, Complete, DeadLetter, Defer, Settlement

_MAX_PEEK = 250
_PREFIX = "com.microsoft:"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    description: str
    value: Any = None
    condition: str | None = None
    settled: bool = False
    """It tells that messages were settled."""

    def encode(self, correlation_id: Any) -> bytes:
        properties: dict[str, Any] = {"statusCode": Int(self.status), "statusDescription": self.description}
        if self.condition is not None:
            properties["errorCondition"] = Symbol(self.condition)
        return response_message(correlation_id, properties, self.value)


class Management:
    """Answers management requests."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._operations: dict[str, Callable[[Queue, dict[str, Any]], Answer]] = {
            "renew-lock": self._renew_lock,
            "peek-message": _peek,
            "schedule-message": _schedule,
            "cancel-scheduled-message": _cancel,
            "receive-by-sequence-number": _receive_by_sequence_number,
            "update-disposition": _update_disposition,
        }

    def answer(self, queue: Queue, request: Message) -> Answer:
        """Do what the request asks; a refusal is an answer with its condition."""
        name = text(request.application_properties.get("operation")) or ""
        try:
            if (busy := self._faults.take_busy()) is not None:
                raise busy
            operation = self._operations.get(name.removeprefix(_PREFIX))
            body = request.body()
            if operation is None or not name.startswith(_PREFIX):
                raise Refusal(NOT_IMPLEMENTED, f"The operation {name!r} is not modelled by this emulator")
            if not isinstance(body, dict):
                raise Refusal(ARGUMENT_ERROR, f"The body of {name!r} must be a map")
            return operation(queue, {str(key): value for key, value in body.items()})
        except CodecError as exc:
            return Answer(400, str(exc), condition=DECODE_ERROR)
        except Refusal as refusal:
            return Answer(refusal.status, refusal.description, condition=refusal.condition)

    def _renew_lock(self, queue: Queue, body: dict[str, Any]) -> Answer:
        tokens = _tokens(body)
        refused = self._faults.take_refused_renewal()
        ends = [queue.renew(token, refused=refused) for token in tokens]
        return Answer(200, "OK", {"expirations": Array(Timestamp, tuple(timestamp(end) for end in ends))})


def _peek(queue: Queue, body: dict[str, Any]) -> Answer:
    first = _whole(body, "from-sequence-number")
    limit = _whole(body, "message-count")
    found = queue.peek(first, min(limit, _MAX_PEEK))
    if not found:
        return Answer(204, "No content", condition=MESSAGE_NOT_FOUND)
    return Answer(200, "OK", {"messages": [{"message": entry.encoded()} for entry in found]})


def _schedule(queue: Queue, body: dict[str, Any]) -> Answer:
    numbers = []
    for item in _items(body, "messages"):
        payload = item.get("message") if isinstance(item, dict) else None
        if not isinstance(payload, bytes):
            raise Refusal(ARGUMENT_ERROR, "'messages' must hold maps with the bytes of a 'message'")
        numbers.append(queue.schedule(parse_message(payload)))
    queue.tick()
    return Answer(200, "OK", {"sequence-numbers": Array(int, tuple(numbers))})


def _cancel(queue: Queue, body: dict[str, Any]) -> Answer:
    queue.cancel_scheduled(_numbers(body))
    return Answer(200, "OK")


def _receive_by_sequence_number(queue: Queue, body: dict[str, Any]) -> Answer:
    destructive = body.get("receiver-settle-mode") == 0
    found = queue.receive_deferred(_numbers(body), destructive=destructive)
    return Answer(200, "OK", {"messages": [_locked(entry) for entry in found]})


def _locked(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"message": entry.encoded()}
    if entry.lock_token is not None:
        found["lock-token"] = entry.lock_token
    return found


def _update_disposition(queue: Queue, body: dict[str, Any]) -> Answer:
    settlement = _settlement(body)
    for token in _tokens(body):
        queue.settle(token, settlement)
    queue.pump()
    return Answer(200, "OK", settled=True)


def _settlement(body: dict[str, Any]) -> Settlement:
    properties = {str(key): value for key, value in (body.get("properties-to-modify") or {}).items()}
    match text(body.get("disposition-status")):
        case "completed":
            return Complete()
        case "abandoned":
            return Abandon(properties)
        case "defered":
            return Defer(properties)
        case "suspended":
            reason, description = body.get("deadletter-reason"), body.get("deadletter-description")
            return DeadLetter(text(reason) or None, text(description) or None, properties)
        case other:
            words = "'disposition-status' must be completed, abandoned, defered or suspended"
            raise Refusal(ARGUMENT_ERROR, f"{words}, not {other!r}")


def _items(body: dict[str, Any], key: str) -> Sequence[Any]:
    value = body.get(key)
    found = value.items if isinstance(value, Array) else value
    if not isinstance(found, list | tuple) or not found:
        raise Refusal(ARGUMENT_ERROR, f"'{key}' must be a list with at least one entry")
    return found


def _tokens(body: dict[str, Any]) -> list[UUID]:
    try:
        return [item if isinstance(item, UUID) else UUID(text(item) or "") for item in _items(body, "lock-tokens")]
    except ValueError:
        raise Refusal(ARGUMENT_ERROR, "'lock-tokens' must be uuids") from None


def _numbers(body: dict[str, Any]) -> list[int]:
    found = _items(body, "sequence-numbers")
    if not all(isinstance(item, int) for item in found):
        raise Refusal(ARGUMENT_ERROR, "'sequence-numbers' must be whole numbers")
    return [int(item) for item in found]


def _whole(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refusal(ARGUMENT_ERROR, f"'{key}' must be a whole number from zero on")
    return int(value)
