"""Python values to jsonb."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from infrastructure.json_text import dumps

__all__ = ["dumps", "jsonb"]


def jsonb(value: Any) -> Jsonb | None:
    """``value`` as a jsonb parameter; characters that jsonb cannot hold become U+FFFD.

    Raises:
        ValueError: for NaN and infinities.
        TypeError: for what JSON has no form for.
    """
    if value is None:
        return None
    return Jsonb(value, dumps=dumps)
