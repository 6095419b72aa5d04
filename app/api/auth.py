"""Who may call: API keys, compared in constant time. Open only on loopback and only when nothing is configured."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from pydantic import SecretStr
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from app.api.problems import problem

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/api/task/callback"})
"""Probes carry no credentials and tell no secrets; callbacks are authenticated by their signature."""
SIGN_IN = "/sign-in"
_OPEN_TREES = (SIGN_IN, "/static/", "/favicon.ico")
"""What the sign-in page is made of."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called. ``name`` goes to logs and to the record of actions."""

    name: str


ANONYMOUS = Caller("anonymous")
"""Everybody, where nothing tells callers apart."""


class Unauthenticated(Exception):
    """The request has no credentials, or wrong ones."""


class Authenticator(Protocol):
    """Tells callers apart; None when the request carries no credentials of this kind."""

    def authenticate(self, request: Request) -> Caller | None: ...


class ApiKeys:
    """Keys in ``X-Api-Key``, ``x-functions-key`` or ``Authorization: ApiKey …``; several at once, for rotation."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._digests = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]

    def authenticate(self, request: Request) -> Caller | None:
        given = request.headers.get("x-api-key") or request.headers.get("x-functions-key")
        if given is None:
            scheme, _, value = request.headers.get("authorization", "").partition(" ")
            given = value.strip() if scheme.lower() == "apikey" else None
        if not given:
            return None
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        matches = [
            hmac.compare_digest(digest, known) for known in self._digests
        ]  # every key, so that time tells nothing
        if not any(matches):
            raise Unauthenticated("the API key is not accepted")
        return Caller(f"api-key:{matches.index(True) + 1}")


class AuthenticationMiddleware(BaseHTTPMiddleware):
    """Lets through probes and authenticated callers; everybody when no authenticator is configured.

    ``unidentified`` is who callers are then: anonymous, or those that a host in front has already let in by a key.
    """

    def __init__(self, app: ASGIApp, authenticators: Sequence[Authenticator], unidentified: Caller = ANONYMOUS) -> None:
        super().__init__(app)
        self._authenticators = list(authenticators)
        self._signs_in = any(isinstance(one, ApiKeys) for one in self._authenticators)
        self._unidentified = unidentified

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.url.path in OPEN_PATHS or request.url.path.startswith(_OPEN_TREES):
            request.state.caller = ANONYMOUS
            return await call_next(request)
        if not self._authenticators:
            request.state.caller = self._unidentified
            return await call_next(request)
        try:
            caller = next(filter(None, (one.authenticate(request) for one in self._authenticators)), None)
        except Unauthenticated as error:
            return _challenge(str(error))
        if caller is None:
            return _sign_in(request) if self._signs_in and _is_page(request) else _challenge("credentials are required")
        request.state.caller = caller
        return await call_next(request)


def _is_page(request: Request) -> bool:
    """Whether a browser asks for a page, not a program for data."""
    asks_for_html = "text/html" in request.headers.get("accept", "")
    return request.method == "GET" and asks_for_html and not request.url.path.startswith("/api/")


def _sign_in(request: Request) -> Response:
    following = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': following})}", status_code=303)


def _challenge(detail: str) -> Response:
    return problem(401, detail, headers={"WWW-Authenticate": 'ApiKey realm="geoworker", Bearer realm="geoworker"'})
