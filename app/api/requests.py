"""Reading requests: bounded JSON bodies and checked query parameters."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from core.errors import Fault, GeoworkerError, InvalidInput

E = TypeVar("E", bound=StrEnum)

__all__ = [
    "BodyTooLarge",
    "NotJson",
    "bounded_body",
    "json_object",
    "query_bool",
    "query_datetime",
    "query_enum",
    "query_int",
    "run_in_threadpool",
]


class BodyTooLarge(GeoworkerError):
    """The request body is above the limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the request body is larger than {limit} bytes")


class NotJson(GeoworkerError):
    """The request's media type is not JSON."""


async def bounded_body(request: Request, limit: int) -> bytes:
    """The request's body; BodyTooLarge above ``limit`` bytes (the rest is not read)."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
    return b"".join(chunks)


async def json_object(request: Request, *, limit: int, optional: bool = False) -> dict[str, Any]:
    """The request's body as a JSON object.

    Raises:
        BodyTooLarge: above ``limit`` bytes (the rest is not read).
        NotJson: when the content type says something else.
        InvalidInput: when it is no JSON, no object, or has NaN, infinities or NUL characters.
    """
    body = await bounded_body(request, limit)
    if not body and optional:
        return {}
    media_type = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise NotJson(f"content type {media_type!r} is not accepted; send application/json")
    try:
        data = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("request body", [Fault("body", f"is not JSON: {error}")]) from error
    if not isinstance(data, dict):
        raise InvalidInput("request body", [Fault("body", "must be a JSON object", type(data).__name__)])
    if b"\\u0000" in body:
        raise InvalidInput("request body", [Fault("body", "must not contain NUL characters")])
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def query_int(request: Request, name: str, default: int, *, low: int, high: int) -> int:
    """A whole number from the query string; InvalidInput when it is none or out of bounds."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.lstrip("-").isdigit() or len(text) > 12 or not low <= int(text) <= high:
        raise InvalidInput("query", [Fault(name, f"must be a whole number from {low} to {high}", text)])
    return int(text)


def query_bool(request: Request, name: str) -> bool:
    """``true`` or ``false`` from the query string; false when it is not there."""
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise InvalidInput("query", [Fault(name, "must be true or false", text)])
    return text == "true"


def query_enum(request: Request, name: str, kind: type[E]) -> E | None:
    """One of an enumeration's values from the query string, or None."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return kind(text.lower())
    except ValueError:
        allowed = ", ".join(kind)
        raise InvalidInput("query", [Fault(name, f"must be one of {allowed}", text)]) from None


def query_datetime(request: Request, name: str) -> datetime | None:
    """An ISO 8601 moment with an offset from the query string, or None."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(
            "query", [Fault(name, "must be an ISO 8601 moment with an offset, 2026-01-31T12:00:00Z", text)]
        )
    return moment
