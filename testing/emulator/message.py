"""An AMQP message as its sections. What the broker does not change travels through as the bytes that came in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from testing.emulator.codec import Array, CodecError, Described, Symbol, UByte, UInt, ULong, decode, encode

_HEADER, _DELIVERY_ANNOTATIONS, _MESSAGE_ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES = range(0x70, 0x75)
_DATA, _SEQUENCE, _VALUE, _FOOTER = range(0x75, 0x79)


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``annotations`` and ``application_properties`` decoded, properties, body and footer as sent."""

    durable: bool = False
    priority: int = 4
    ttl_milliseconds: int | None = None
    annotations: dict[Any, Any] = field(default_factory=dict)
    properties: list[Any] = field(default_factory=list)
    application_properties: dict[Any, Any] = field(default_factory=dict)
    raw_properties: bytes = b""
    raw_body: bytes = b""

    @property
    def message_id(self) -> Any:
        return self.properties[0] if self.properties else None

    @property
    def reply_to(self) -> Any:
        return self.properties[4] if len(self.properties) > 4 else None

    def with_application_properties(self, extra: dict[str, Any]) -> Message:
        """This message with ``extra`` put over its application properties."""
        merged = {str(key): value for key, value in self.application_properties.items()} | extra
        return replace(self, application_properties=merged)

    def body(self) -> Any:
        """The body: bytes of its data sections, the value of its value section, or the list of its sequences."""
        data, values = [], []
        for code, value, _ in _sections(self.raw_body):
            if code == _DATA:
                data.append(value)
            elif code in (_VALUE, _SEQUENCE):
                values.append(value)
        if data and all(isinstance(part, bytes) for part in data):
            return b"".join(data)
        return values[0] if len(values) == 1 else values

    def encode(self, *, delivery_count: int, annotations: dict[Symbol, Any]) -> bytes:
        """The bytes to deliver: a header with the count, the broker's annotations over the sender's, the rest as is."""
        ttl = None if self.ttl_milliseconds is None else UInt(self.ttl_milliseconds)
        header = [self.durable, UByte(self.priority), ttl, delivery_count == 0, UInt(delivery_count)]
        parts = [_section(_HEADER, header), _section(_MESSAGE_ANNOTATIONS, self.annotations | annotations)]
        parts.append(self.raw_properties)
        if self.application_properties:
            parts.append(_section(_APPLICATION_PROPERTIES, self.application_properties))
        parts.append(self.raw_body)
        return b"".join(parts)


def parse_message(data: bytes) -> Message:
    """The message in ``data``. Raises CodecError."""
    message: dict[str, Any] = {}
    body: list[bytes] = []
    for code, value, raw in _sections(data):
        match code:
            case 0x70:
                durable, priority, ttl = (*_listed(value), None, None, None)[:3]
                message["durable"] = bool(durable)
                message["priority"] = int(priority) if isinstance(priority, UByte) else 4
                message["ttl_milliseconds"] = int(ttl) if isinstance(ttl, UInt) else None
            case 0x72:
                message["annotations"] = _encodable(value)
            case 0x73:
                message |= {"properties": _listed(value), "raw_properties": raw}
            case 0x74:
                message["application_properties"] = _encodable(value)
            case 0x75 | 0x76 | 0x77 | 0x78:
                body.append(raw)
    return Message(**message, raw_body=b"".join(body))


def new_message(body: bytes, *, message_id: str | None, application_properties: dict[str, Any]) -> Message:
    """A message with one data section. Raises CodecError for a property that AMQP has no type for."""
    properties = [message_id]
    encode(application_properties)
    return Message(
        properties=properties,
        application_properties=application_properties,
        raw_properties=_section(_PROPERTIES, properties),
        raw_body=_section(_DATA, body),
    )


def split_batch(data: bytes) -> list[bytes]:
    """The encoded messages of a batch transfer: one per data section. Raises CodecError."""
    parts = [value for code, value, _ in _sections(data) if code == _DATA]
    if not all(isinstance(part, bytes) for part in parts):
        raise CodecError("a data section must hold binary")
    return parts


def response_message(correlation_id: Any, properties: dict[str, Any], value: Any = None) -> bytes:
    """A management or token response: what it answers, its status properties, and a value for a body."""
    head: list[Any] = [None] * 5 + [correlation_id]
    return _section(_PROPERTIES, head) + _section(_APPLICATION_PROPERTIES, properties) + _section(_VALUE, value)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise CodecError(f"the section must hold a list, not {type(value).__name__}")
    return value


def _encodable(value: Any) -> dict[Any, Any]:
    """A map that can be written again as it was read. Raises CodecError."""
    if not isinstance(value, dict | None):
        raise CodecError(f"the section must hold a map, not {type(value).__name__}")
    for item in (value or {}).values():
        if isinstance(item, Array | list | dict | Described):
            encode(item)
    return value or {}


def _section(code: int, value: Any) -> bytes:
    return encode(Described(ULong(code), value))


def _sections(data: bytes) -> list[tuple[int, Any, bytes]]:
    found, pos = [], 0
    while pos < len(data):
        value, end = decode(data, pos)
        if not isinstance(value, Described) or not isinstance(value.descriptor, int):
            raise CodecError(f"byte {pos} of the message starts no section")
        if not _HEADER <= value.descriptor <= _FOOTER:
            raise CodecError(f"the message has a section 0x{value.descriptor:02x}, which AMQP does not define")
        found.append((int(value.descriptor), value.value, data[pos:end]))
        pos = end
    return found
