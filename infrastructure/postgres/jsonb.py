"""Python values to and from jsonb."""

from __future__ import annotations

import json
from typing import Any

from psycopg.types.json import Jsonb


def dumps(value: Any) -> str:
    """Compact JSON that jsonb accepts."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    if "\\u0000" not in text and "\\ud" not in text:
        return text
    return json.dumps(_clean(value), allow_nan=False, separators=(",", ":"))


def _clean(value: Any) -> Any:
    # jsonb has no NUL character and no lone surrogates; file names and native error texts may have both.
    match value:
        case str():
            return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_clean(key): _clean(item) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item) for item in value]
        case _:
            return value


def jsonb(value: Any) -> Jsonb | None:
    """``value`` as a jsonb parameter; characters that jsonb cannot hold become U+FFFD.

    Raises:
        ValueError: for NaN and infinities.
        TypeError: for what JSON has no form for.
    """
    if value is None:
        return None
    return Jsonb(value, dumps=dumps)
