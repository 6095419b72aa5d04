"""The frame bodies of AMQP 1.0 as records (OASIS AMQP 1.0, parts 2, 3 and 5), and the frames around them.

``None`` is an absent field. Encoding writes every field, absent ones as null: some clients index by position.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar, cast

from testing.emulator.codec import CodecError, Described, Symbol, Timestamp, UByte, UInt, ULong, UShort, decode, encode

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
AMQP_FRAME, SASL_FRAME = 0, 1
BATCH_MESSAGE_FORMAT = 0x80013700

_FRAME_HEADER = struct.Struct(">IBBH")


class Record:
    """A described list: ``code`` is its descriptor, ``wire`` the AMQP type of each field (None: as the value is)."""

    code: ClassVar[int]
    wire: ClassVar[tuple[type | None, ...]]

    def described(self) -> Described:
        values = _FIELDS[type(self)](self)
        return Described(
            ULong(self.code),
            [
                _plain(value) if kind is None or value is None else kind(value)
                for kind, value in zip(self.wire, values, strict=True)
            ],
        )


def _plain(value: Any) -> Any:
    return value.described() if isinstance(value, Record) else value


@dataclass(slots=True)
class Open(Record):
    code = 0x10
    wire = (str, str, UInt, UShort, UInt, None, None, None, None, None)
    container_id: str
    hostname: str | None = None
    max_frame_size: int | None = None
    channel_max: int | None = None
    idle_time_out: int | None = None
    outgoing_locales: Any = None
    incoming_locales: Any = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: Any = None


@dataclass(slots=True)
class Begin(Record):
    code = 0x11
    wire = (UShort, UInt, UInt, UInt, UInt, None, None, None)
    remote_channel: int | None = None
    next_outgoing_id: int = 0
    incoming_window: int = 0
    outgoing_window: int = 0
    handle_max: int | None = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: Any = None


@dataclass(slots=True)
class Attach(Record):
    code = 0x12
    wire = (str, UInt, bool, UByte, UByte, None, None, None, bool, UInt, ULong, None, None, None)
    name: str
    handle: int
    role: bool
    snd_settle_mode: int | None = None
    rcv_settle_mode: int | None = None
    source: Source | None = None
    target: Target | None = None
    unsettled: Any = None
    incomplete_unsettled: bool | None = None
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: Any = None


@dataclass(slots=True)
class Flow(Record):
    code = 0x13
    wire = (UInt, UInt, UInt, UInt, UInt, UInt, UInt, UInt, bool, bool, None)
    next_incoming_id: int | None = None
    incoming_window: int = 0
    next_outgoing_id: int = 0
    outgoing_window: int = 0
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool | None = None
    echo: bool | None = None
    properties: Any = None


@dataclass(slots=True)
class Transfer(Record):
    code = 0x14
    wire = (UInt, UInt, bytes, UInt, bool, bool, UByte, None, bool, bool, bool)
    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool | None = None
    rcv_settle_mode: int | None = None
    state: Any = None
    resume: bool | None = None
    aborted: bool | None = None
    batchable: bool | None = None


@dataclass(slots=True)
class Disposition(Record):
    code = 0x15
    wire = (bool, UInt, UInt, bool, None, bool)
    role: bool
    first: int
    last: int | None = None
    settled: bool | None = None
    state: Any = None
    batchable: bool | None = None


@dataclass(slots=True)
class Detach(Record):
    code = 0x16
    wire = (UInt, bool, None)
    handle: int
    closed: bool | None = None
    error: AmqpError | None = None


@dataclass(slots=True)
class End(Record):
    code = 0x17
    wire = (None,)
    error: AmqpError | None = None


@dataclass(slots=True)
class Close(Record):
    code = 0x18
    wire = (None,)
    error: AmqpError | None = None


@dataclass(slots=True)
class AmqpError(Record):
    code = 0x1D
    wire = (Symbol, str, None)
    condition: str
    description: str | None = None
    info: Any = None


@dataclass(slots=True)
class Received(Record):
    code = 0x23
    wire = (UInt, ULong)
    section_number: int | None = None
    section_offset: int | None = None


@dataclass(slots=True)
class Accepted(Record):
    code = 0x24
    wire = ()


@dataclass(slots=True)
class Rejected(Record):
    code = 0x25
    wire = (None,)
    error: AmqpError | None = None


@dataclass(slots=True)
class Released(Record):
    code = 0x26
    wire = ()


@dataclass(slots=True)
class Modified(Record):
    code = 0x27
    wire = (bool, bool, None)
    delivery_failed: bool | None = None
    undeliverable_here: bool | None = None
    message_annotations: Any = None


@dataclass(slots=True)
class Source(Record):
    code = 0x28
    wire = (None, UInt, Symbol, UInt, bool, None, None, None, None, None, None)
    address: Any = None
    durable: int | None = None
    expiry_policy: str | None = None
    timeout: int | None = None
    dynamic: bool | None = None
    dynamic_node_properties: Any = None
    distribution_mode: Any = None
    filter: Any = None
    default_outcome: Any = None
    outcomes: Any = None
    capabilities: Any = None


@dataclass(slots=True)
class Target(Record):
    code = 0x29
    wire = (None, UInt, Symbol, UInt, bool, None, None)
    address: Any = None
    durable: int | None = None
    expiry_policy: str | None = None
    timeout: int | None = None
    dynamic: bool | None = None
    dynamic_node_properties: Any = None
    capabilities: Any = None


@dataclass(slots=True)
class SaslMechanisms(Record):
    code = 0x40
    wire = (None,)
    mechanisms: Any


@dataclass(slots=True)
class SaslInit(Record):
    code = 0x41
    wire = (Symbol, bytes, str)
    mechanism: str
    initial_response: bytes | None = None
    hostname: str | None = None


@dataclass(slots=True)
class SaslOutcome(Record):
    code = 0x44
    wire = (UByte, bytes)
    status: int
    additional_data: bytes | None = None


Outcome = Accepted | Rejected | Released | Modified

_RECORDS: dict[int, type[Any]] = {kind.code: kind for kind in Record.__subclasses__()}
_NAMES: dict[type[Record], tuple[str, ...]] = {kind: tuple(f.name for f in fields(kind)) for kind in _RECORDS.values()}


def _getter(names: tuple[str, ...]) -> Any:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


_FIELDS = {kind: _getter(names) for kind, names in _NAMES.items()}


def to_record(value: Any) -> Any:
    """``value`` with every described list that AMQP defines turned into its record, at any depth of its fields."""
    if not isinstance(value, Described):
        return value
    kind = _RECORDS.get(value.descriptor) if isinstance(value.descriptor, int) else None
    if kind is None:
        return value
    try:
        return kind(*[to_record(item) for item in value.value])
    except TypeError as exc:
        raise CodecError(f"malformed {kind.__name__.lower()}: {exc}") from exc


def encode_record(record: Record) -> bytes:
    return encode(record.described())


def frame(record: Record, channel: int = 0, payload: bytes = b"", kind: int = AMQP_FRAME) -> bytes:
    """One frame: header, performative, payload."""
    body = encode_record(record)
    return _FRAME_HEADER.pack(8 + len(body) + len(payload), 2, kind, channel) + body + payload


def transfer_frame(
    channel: int, handle: int, delivery_id: int, tag: bytes, *, settled: bool, more: bool, payload: bytes
) -> bytes:
    """The bytes of one transfer: what :func:`frame` gives for it, but faster, for it is most of what a broker sends."""
    fields = b"".join(
        (
            encode(UInt(handle)),
            encode(UInt(delivery_id)),
            encode(tag),
            b"\x43",
            b"\x41" if settled else b"\x42",
            b"\x41" if more else b"\x42",
            b"\x40\x40\x40\x40\x40",
        )
    )
    head = bytes((0x00, 0x53, 0x14, 0xC0, len(fields) + 1, 11)) + fields
    return _FRAME_HEADER.pack(8 + len(head) + len(payload), 2, AMQP_FRAME, channel) + head + payload


@dataclass(frozen=True, slots=True)
class Frame:
    channel: int
    body: Record | None
    """None in an empty frame, which only says that the peer is alive."""
    payload: bytes


class FrameReader:
    """Cuts a byte stream into protocol headers and frames.

    Usage: :meth:`feed` what arrives, then call :meth:`header` or :meth:`next` until they return None.
    """

    def __init__(self, max_frame_size: int) -> None:
        self._buffer = bytearray()
        self._max_frame_size = max_frame_size

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def header(self) -> bytes | None:
        """The eight bytes that open a protocol layer, or None until they are all here."""
        if len(self._buffer) < 8:
            return None
        header = bytes(self._buffer[:8])
        del self._buffer[:8]
        return header

    def next(self) -> Frame | None:
        """The next whole frame, or None. Raises CodecError for bytes that are no frame."""
        buffer = self._buffer
        if len(buffer) < 8:
            return None
        size, offset, _kind, channel = _FRAME_HEADER.unpack_from(buffer)
        if size < 8 or offset < 2 or size > self._max_frame_size:
            raise CodecError(f"a frame of {size} bytes with data offset {offset}; allowed: 8 to {self._max_frame_size}")
        if len(buffer) < size:
            return None
        data = bytes(buffer[offset * 4 : size])
        del buffer[:size]
        if not data:
            return Frame(channel, None, b"")
        value, end = decode(data)
        body = to_record(value)
        if not isinstance(body, Record):
            raise CodecError(f"an unknown frame body: {value!r:.80}")
        return Frame(channel, body, data[end:])


def timestamp(seconds: float) -> Timestamp:
    return Timestamp(round(seconds * 1000))


def text(value: Any) -> str | None:
    """A string, symbol or binary as text; None stays None, anything else is its str()."""
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(cast(object, value))
