"""Errors as RFC 9457 problem documents (``application/problem+json``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.errors import (
    Conflict,
    DeadLetterNotFound,
    GeoworkerError,
    InvalidInput,
    JobNotFound,
    StoreUnavailable,
    TaskNotFound,
    TransportUnavailable,
    UnknownJobType,
    UnknownTaskType,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = "application/problem+json"


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> ProblemResponse:
    """A problem document of that status; ``members`` are its extension members."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return ProblemResponse(body, status_code=status, headers=dict(headers or {}))


def problem_for(error: GeoworkerError) -> ProblemResponse:
    """The problem document that an error of ours deserves."""
    match error:
        case InvalidInput():
            return problem(422, str(error), errors=[fault.as_dict() for fault in error.faults])
        case UnknownJobType() | UnknownTaskType():
            return problem(404, str(error), known=list(error.known))
        case JobNotFound() | TaskNotFound() | DeadLetterNotFound():
            return problem(404, str(error))
        case Conflict():
            return problem(409, str(error))
        case StoreUnavailable() | TransportUnavailable():
            detail = "the state store cannot be reached; nothing was accepted"
            if isinstance(error, TransportUnavailable):
                detail = str(error)
            return problem(503, detail, headers=retry_after(RETRY_AFTER_SECONDS))
        case _:
            return problem(500, "an error that should not happen; see the log")


def retry_after(seconds: float) -> dict[str, str]:
    """A Retry-After header (RFC 9110 section 10.2.3)."""
    return {"Retry-After": str(max(1, round(seconds)))}


async def on_geoworker_error(request: Request, error: Exception) -> Response:
    """Exception handler for errors of ours."""
    assert isinstance(error, GeoworkerError)  # noqa: S101 - registered for that type
    response = problem_for(error)
    if response.status_code >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error, extra={"action": "http.error"})
    return response


async def on_http_error(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """Exception handler for Starlette's own errors (404, 405)."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for that type
    return problem(error.status_code, error.detail, headers=error.headers)


async def on_any_error(request: Request, error: Exception) -> Response:
    """Exception handler for what nobody foresaw: logged with its traceback, never shown to the caller."""
    logger.error(
        "unforeseen error in %s %s", request.method, request.url.path, exc_info=error, extra={"action": "http.error"}
    )
    return problem(500, "an error that should not happen; see the log")
