"""The codec's invariants, and its agreement with an independent implementation."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testing.emulator.codec import (
    Array,
    Byte,
    Char,
    CodecError,
    Described,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
    decode,
    encode,
)
from testing.emulator.message import parse_message
from testing.emulator.performatives import Flow, FrameReader, Transfer, frame, transfer_frame


def whole(kind: type, bits: int, *, signed: bool) -> st.SearchStrategy[Any]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high).map(kind)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    whole(int, 64, signed=True),
    whole(Int, 32, signed=True),
    whole(Short, 16, signed=True),
    whole(Byte, 8, signed=True),
    whole(ULong, 64, signed=False),
    whole(UInt, 32, signed=False),
    whole(UShort, 16, signed=False),
    whole(UByte, 8, signed=False),
    whole(Timestamp, 64, signed=True),
    st.floats(allow_nan=False),
    text,
    st.binary(max_size=300),
    st.uuids(),
    st.text(st.characters(max_codepoint=127), max_size=40).map(Symbol),
    st.characters(exclude_categories=["Cs"]).map(Char),
)
arrays = st.one_of(
    st.lists(st.uuids(), min_size=1).map(lambda items: Array(UUID, tuple(items))),
    st.lists(whole(int, 64, signed=True), min_size=1).map(lambda items: Array(int, tuple(items))),
    st.lists(text, min_size=1).map(lambda items: Array(str, tuple(items))),
)
values = st.recursive(
    scalars | arrays,
    lambda inner: st.lists(inner, max_size=300) | st.dictionaries(text, inner) | st.builds(Described, scalars, inner),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """The value with its type at every level: 1, True, UInt(1) and 1.0 are equal in Python but not in AMQP."""
    match value:
        case list():
            return [typed(item) for item in value]
        case dict():
            return [(typed(key), typed(item)) for key, item in value.items()]
        case Described(descriptor, inner):
            return (typed(descriptor), typed(inner))
        case _:
            return (type(value), value)


@given(values)
def test_what_is_encoded_decodes_to_the_same_types(value: Any) -> None:
    data = encode(value)
    found, end = decode(b"\x40" + data, 1)
    assert typed(found) == typed(value)
    assert end == len(data) + 1


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        _, end = decode(data)
    except CodecError:
        return
    assert 0 < end <= len(data)


@pytest.mark.parametrize("constructor", [0x40, 0x41, 0x43, 0x44, 0x45])
def test_an_array_cannot_announce_more_than_a_message_could_hold(constructor: int) -> None:
    with pytest.raises(CodecError, match="take no bytes"):
        decode(b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff" + bytes((constructor,)))


@given(values, st.data())
def test_a_truncated_value_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CodecError):
        decode(encoded[:cut])


@given(st.lists(st.tuples(st.integers(0x70, 0x78), values), max_size=4))
def test_any_sections_make_a_message_that_can_be_delivered_or_are_refused(sections: list[tuple[int, Any]]) -> None:
    data = b"".join(encode(Described(ULong(code), value)) for code, value in sections)
    try:
        message = parse_message(data)
    except CodecError:
        return
    message.body()
    assert parse_message(message.encode(delivery_count=1, annotations={})).properties == message.properties


def test_a_type_without_a_name_in_amqp_is_refused() -> None:
    with pytest.raises(CodecError, match="no AMQP type for object"):
        encode(object())


@given(
    body=st.binary(max_size=500),
    message_id=text,
    properties=st.dictionaries(text, st.integers(-(2**63), 2**63 - 1) | text | st.booleans() | st.uuids(), max_size=5),
    count=st.integers(0, 100),
)
def test_messages_agree_with_proton(body: bytes, message_id: str, properties: dict[str, Any], count: int) -> None:
    theirs = proton.Message(body=body, id=message_id, properties=properties or None, inferred=True, ttl=5, priority=7)
    ours = parse_message(bytes(theirs.encode()))
    assert (ours.body(), ours.message_id, ours.application_properties) == (body, message_id, properties)
    back = proton.Message()
    back.decode(ours.encode(delivery_count=count, annotations={Symbol("x-opt-sequence-number"): 9}))
    assert (bytes(back.body), back.id, back.properties or {}) == (body, message_id, properties)
    assert (back.delivery_count, back.priority, back.ttl) == (count, 7, 5)
    assert dict(back.annotations) == {"x-opt-sequence-number": 9}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=32), st.booleans(), st.booleans())
def test_the_fast_transfer_is_the_slow_one(handle: int, number: int, tag: bytes, settled: bool, more: bool) -> None:
    fast = transfer_frame(3, handle, number, tag, settled=settled, more=more, payload=b"payload")
    slow = frame(Transfer(handle, number, tag, 0, settled, more), 3, b"payload")
    for data in (fast, slow):
        reader = FrameReader(65536)
        reader.feed(data)
        found = reader.next()
        assert found is not None
        assert found.body == Transfer(handle, number, tag, 0, settled, more)
        assert (found.channel, found.payload) == (3, b"payload")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.integers(1, 20))
def test_frames_are_found_however_the_stream_is_cut(credits: list[int], step: int) -> None:
    data = b"".join(frame(Flow(link_credit=credit), 1) for credit in credits)
    reader = FrameReader(65536)
    found = []
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        while (one := reader.next()) is not None:
            found.append(one.body)
    assert found == [Flow(link_credit=credit) for credit in credits]
