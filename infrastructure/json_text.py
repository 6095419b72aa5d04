"""Python values as JSON text that jsonb accepts. Stores in memory keep values the same way, so that they agree."""

from __future__ import annotations

import json
from typing import Any

_compact = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_SIMPLE_ITEMS = 100
_SIMPLE_LENGTH = 1000
_decode = json.JSONDecoder().raw_decode  # without a search for blanks around what we wrote


def dumps(value: Any) -> str:
    """Compact JSON; characters that jsonb cannot hold (NUL, lone surrogates) become U+FFFD.

    Raises:
        ValueError: for NaN and infinities.
        TypeError: for what JSON has no form for.
    """
    text = _compact(value)
    if "\\u0000" not in text and "\\ud" not in text:
        return text
    return _compact(_clean(value))


def loads(text: str) -> Any:
    """What :func:`dumps` made ``text`` from, as JSON gives it back."""
    return _decode(text)[0]


def is_simple(value: object) -> bool:
    """Whether ``value`` is sure to come back from JSON and jsonb as it is, so that a copy of it will do.

    That is a small dict of short ASCII texts, integers of 64 bits, booleans and nulls.
    """
    if type(value) is not dict or len(value) > _SIMPLE_ITEMS:
        return False
    for key, item in value.items():
        kind = type(item)
        if not _is_short(key) or not (
            kind is bool
            or item is None
            or (kind is str and _is_short(item))
            or (kind is int and -(2**63) <= item < 2**63)
        ):
            return False
    return True


def _is_short(text: object) -> bool:
    return type(text) is str and len(text) <= _SIMPLE_LENGTH and text.isascii() and "\x00" not in text


def clean(text: str) -> str:
    """``text`` without the characters that PostgreSQL cannot hold; file names and native error texts may have them."""
    if "\x00" not in text and text.isascii():
        return text
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case dict():
            return {_clean(key): _clean(item) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item) for item in value]
        case _:
            return value
