"""The AMQP 1.0 type system: Python values to bytes and back (OASIS AMQP 1.0, part 1).

Plain Python values stand for one AMQP type each: ``int`` is long, ``float`` double, ``str`` string, ``bytes`` binary,
``list`` list, ``dict`` map, ``UUID`` uuid. The subclasses below name the other types, so that what was decoded encodes
to the same types again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID


class CodecError(ValueError):
    """The bytes are not AMQP 1.0."""


class Symbol(str):
    __slots__ = ()


class Char(str):
    __slots__ = ()


class UByte(int):
    pass


class UShort(int):
    pass


class UInt(int):
    pass


class ULong(int):
    pass


class Byte(int):
    pass


class Short(int):
    pass


class Int(int):
    pass


class Timestamp(int):
    """Milliseconds since 1970-01-01T00:00Z."""


class Float32(float):
    pass


@dataclass(frozen=True, slots=True)
class Decimal:
    """A decimal32, 64 or 128, kept as the bytes it came as."""

    code: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Described:
    descriptor: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Array:
    """An array; ``kind`` is the Python type of its elements, all alike."""

    kind: type
    items: tuple[Any, ...]


_U8, _U16, _U32, _U64 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_I8, _I16, _I32, _I64 = struct.Struct(">b"), struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_F32, _F64 = struct.Struct(">f"), struct.Struct(">d")

_Decoder = Callable[[bytes, int], tuple[Any, int]]


def decode(data: bytes, pos: int = 0) -> tuple[Any, int]:
    """The value at ``pos`` and the position after it. Raises CodecError."""
    try:
        return _value(data, pos)
    except (IndexError, KeyError, struct.error, ValueError, OverflowError, TypeError, RecursionError) as exc:
        raise CodecError(f"not AMQP 1.0 at byte {pos}: {exc}") from exc


def _value(data: bytes, pos: int) -> tuple[Any, int]:
    code = data[pos]
    if code == 0:
        descriptor, pos = _value(data, pos + 1)
        value, pos = _value(data, pos)
        return Described(descriptor, value), pos
    return _DECODERS[code](data, pos + 1)


def _fixed(layout: struct.Struct, kind: Callable[[Any], Any] | None = None) -> _Decoder:
    unpack, size = layout.unpack_from, layout.size
    if kind is None:
        return lambda data, pos: (unpack(data, pos)[0], pos + size)
    return lambda data, pos: (kind(unpack(data, pos)[0]), pos + size)


def _constant(value: object) -> _Decoder:
    return lambda _data, pos: (value, pos)


def _slice(data: bytes, start: int, size: int) -> bytes:
    end = start + size
    if end > len(data):
        raise IndexError(f"{size} bytes announced, {len(data) - start} left")
    return data[start:end]


def _variable(wide: bool, kind: Callable[[bytes], Any]) -> _Decoder:
    def read(data: bytes, pos: int) -> tuple[Any, int]:
        size, pos = (_U32.unpack_from(data, pos)[0], pos + 4) if wide else (data[pos], pos + 1)
        return kind(_slice(data, pos, size)), pos + size

    return read


def _compound(wide: bool, kind: Callable[[list[Any]], Any]) -> _Decoder:
    def read(data: bytes, pos: int) -> tuple[Any, int]:
        if wide:
            count, pos = _U32.unpack_from(data, pos + 4)[0], pos + 8
        else:
            count, pos = data[pos + 1], pos + 2
        items = []
        for _ in range(count):
            item, pos = _value(data, pos)
            items.append(item)
        return kind(items), pos

    return read


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _array(wide: bool) -> _Decoder:
    def read(data: bytes, pos: int) -> tuple[Any, int]:
        if wide:
            count, pos = _U32.unpack_from(data, pos + 4)[0], pos + 8
        else:
            count, pos = data[pos + 1], pos + 2
        descriptor: Any = None
        if data[pos] == 0:
            descriptor, pos = _value(data, pos + 1)
        if count > len(data) and data[pos] in _WITHOUT_BYTES:
            raise IndexError(f"{count} elements announced, which take no bytes at all")
        read_item, pos = _DECODERS[data[pos]], pos + 1
        items = []
        for _ in range(count):
            item, pos = read_item(data, pos)
            items.append(item if descriptor is None else Described(descriptor, item))
        return Array(type(items[0]) if items else type(None), tuple(items)), pos

    return read


_WITHOUT_BYTES = frozenset((0x40, 0x41, 0x42, 0x43, 0x44, 0x45))
"""Constructors whose values are empty: nothing in the stream bounds how many of them an array may announce."""


def _decimal(code: int, size: int) -> _Decoder:
    return lambda data, pos: (Decimal(code, _slice(data, pos, size)), pos + size)


_DECODERS: dict[int, _Decoder] = {
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(UInt(0)),
    0x44: _constant(ULong(0)),
    0x45: lambda _data, pos: ([], pos),
    0x50: lambda data, pos: (UByte(data[pos]), pos + 1),
    0x51: _fixed(_I8, Byte),
    0x52: lambda data, pos: (UInt(data[pos]), pos + 1),
    0x53: lambda data, pos: (ULong(data[pos]), pos + 1),
    0x54: _fixed(_I8, Int),
    0x55: _fixed(_I8),
    0x56: lambda data, pos: (data[pos] != 0, pos + 1),
    0x60: _fixed(_U16, UShort),
    0x61: _fixed(_I16, Short),
    0x70: _fixed(_U32, UInt),
    0x71: _fixed(_I32, Int),
    0x72: _fixed(_F32, Float32),
    0x73: _fixed(_U32, lambda point: Char(chr(point))),
    0x74: _decimal(0x74, 4),
    0x80: _fixed(_U64, ULong),
    0x81: _fixed(_I64),
    0x82: _fixed(_F64),
    0x83: _fixed(_I64, Timestamp),
    0x84: _decimal(0x84, 8),
    0x94: _decimal(0x94, 16),
    0x98: lambda data, pos: (UUID(bytes=_slice(data, pos, 16)), pos + 16),
    0xA0: _variable(False, bytes),
    0xA1: _variable(False, lambda raw: raw.decode()),
    0xA3: _variable(False, lambda raw: Symbol(raw.decode("ascii"))),
    0xB0: _variable(True, bytes),
    0xB1: _variable(True, lambda raw: raw.decode()),
    0xB3: _variable(True, lambda raw: Symbol(raw.decode("ascii"))),
    0xC0: _compound(False, lambda items: items),
    0xC1: _compound(False, _pairs),
    0xD0: _compound(True, lambda items: items),
    0xD1: _compound(True, _pairs),
    0xE0: _array(False),
    0xF0: _array(True),
}


def encode(value: Any) -> bytes:
    """The AMQP bytes of ``value``, constructor included. Raises CodecError for a type that AMQP has no name for."""
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise CodecError(f"no AMQP type for {type(value).__name__}")
    return encoder(value)


def _small(codes: bytes, narrow: struct.Struct, wide: struct.Struct, *, signed: bool) -> Callable[[int], bytes]:
    short_code, long_code = codes[:1], codes[1:]
    low, high = (-128, 128) if signed else (0, 256)

    def write(value: int) -> bytes:
        return short_code + narrow.pack(value) if low <= value < high else long_code + wide.pack(value)

    return write


def _plain(code: int, layout: struct.Struct) -> Callable[[Any], bytes]:
    prefix = bytes([code])
    return lambda value: prefix + layout.pack(value)


def _sized(short: int, raw: bytes) -> bytes:
    size = len(raw)
    return bytes((short, size)) + raw if size < 256 else bytes((short + 0x10,)) + _U32.pack(size) + raw


def _encode_items(short: int, count: int, body: bytes) -> bytes:
    size = len(body)
    if size < 255 and count < 256:
        return bytes((short, size + 1, count)) + body
    return bytes((short + 0x10,)) + _U32.pack(size + 4) + _U32.pack(count) + body


def _encode_list(items: list[Any] | tuple[Any, ...]) -> bytes:
    return _encode_items(0xC0, len(items), b"".join([encode(item) for item in items])) if items else b"\x45"


def _encode_map(pairs: dict[Any, Any]) -> bytes:
    body = b"".join([encode(part) for pair in pairs.items() for part in pair])
    return _encode_items(0xC1, 2 * len(pairs), body)


_ARRAY_LAYOUTS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    type(None): (0x40, lambda _: b""),
    bool: (0x56, lambda value: b"\x01" if value else b"\x00"),
    float: (0x82, _F64.pack),
    int: (0x81, _I64.pack),
    Int: (0x71, _I32.pack),
    UInt: (0x70, _U32.pack),
    ULong: (0x80, _U64.pack),
    Timestamp: (0x83, _I64.pack),
    UUID: (0x98, lambda value: value.bytes),
    str: (0xB1, lambda value: _U32.pack(len(value.encode())) + value.encode()),
    Symbol: (0xB3, lambda value: _U32.pack(len(value)) + value.encode("ascii")),
    bytes: (0xB0, lambda value: _U32.pack(len(value)) + value),
}


def _encode_array(array: Array) -> bytes:
    try:
        code, pack = _ARRAY_LAYOUTS[array.kind]
    except KeyError:
        raise CodecError(f"no array of {array.kind.__name__}") from None
    body = bytes((code,)) + b"".join([pack(item) for item in array.items])
    return b"\xf0" + _U32.pack(len(body) + 4) + _U32.pack(len(array.items)) + body


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\x40",
    bool: lambda value: b"\x41" if value else b"\x42",
    int: _small(b"\x55\x81", _I8, _I64, signed=True),
    Int: _small(b"\x54\x71", _I8, _I32, signed=True),
    UInt: _small(b"\x52\x70", _U8, _U32, signed=False),
    ULong: _small(b"\x53\x80", _U8, _U64, signed=False),
    UByte: _plain(0x50, _U8),
    Byte: _plain(0x51, _I8),
    UShort: _plain(0x60, _U16),
    Short: _plain(0x61, _I16),
    Timestamp: _plain(0x83, _I64),
    float: _plain(0x82, _F64),
    Float32: _plain(0x72, _F32),
    Char: lambda value: b"\x73" + _U32.pack(ord(value)),
    Decimal: lambda value: bytes((value.code,)) + value.payload,
    UUID: lambda value: b"\x98" + value.bytes,
    str: lambda value: _sized(0xA1, value.encode()),
    Symbol: lambda value: _sized(0xA3, value.encode("ascii")),
    bytes: lambda value: _sized(0xA0, value),
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_map,
    Array: _encode_array,
    Described: lambda value: b"\x00" + encode(value.descriptor) + encode(value.value),
}
