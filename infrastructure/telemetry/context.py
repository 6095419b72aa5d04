"""Which task and which trace the running code belongs to."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from core.records import Claim

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")
_ids: ContextVar[Mapping[str, Any]] = ContextVar("geoworker_ids", default={})  # noqa: B039 - never changed in place
_traceparent: ContextVar[str | None] = ContextVar("geoworker_traceparent", default=None)


def current_ids() -> Mapping[str, Any]:
    """The ids that log lines of the running code carry."""
    return _ids.get()


class _Binding:
    __slots__ = ("_given", "_token")

    _token: Token[Mapping[str, Any]]

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def __enter__(self) -> None:
        outer = _ids.get()
        self._token = _ids.set({**outer, **self._given} if outer else self._given)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ids.reset(self._token)


def bound(**ids: Any) -> AbstractContextManager[None]:
    """Log lines within the block carry ``ids`` too."""
    return _Binding(ids)


def bound_to(claim: Claim) -> AbstractContextManager[None]:
    """Log lines within the block carry the ids of a running task."""
    return _Binding(claim_ids(claim))


def claim_ids(claim: Claim) -> dict[str, Any]:
    """The ids of a running task, those of its trace included."""
    return claim.ids | trace_ids(current_traceparent() or claim.task.traceparent)


def current_traceparent() -> str | None:
    """The W3C ``traceparent`` of the span that the running code belongs to."""
    return _traceparent.get()


@contextmanager
def within_trace(traceparent: str | None) -> Iterator[None]:
    """The running code belongs to ``traceparent``; what is no traceparent is ignored."""
    token = _traceparent.set(valid_traceparent(traceparent))
    try:
        yield
    finally:
        _traceparent.reset(token)


def valid_traceparent(text: str | None) -> str | None:
    """``text`` when it is a W3C traceparent, else None."""
    return text if text is not None and _TRACEPARENT.match(text) else None


def new_traceparent() -> str:
    """The root of a new, sampled trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def trace_ids(traceparent: str | None) -> dict[str, str]:
    """``trace_id`` and ``span_id`` of a traceparent; empty for none."""
    match = _TRACEPARENT.match(traceparent) if traceparent is not None else None
    return {"trace_id": match.group(1), "span_id": match.group(2)} if match is not None else {}
