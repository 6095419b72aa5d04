"""Who may call: API keys, compared in constant time, and Entra tokens (entra.py).

Open only on loopback, and only when nothing is configured.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import RETRY_AFTER_SECONDS, problem, retry_after

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


class Forbidden(Exception):
    """The caller is who it says, and none of those that may call."""


class IdentityUnavailable(Exception):
    """Credentials cannot be checked now: the identity provider does not answer."""


class Authenticator(Protocol):
    """Tells callers apart; None when the request carries no credentials of this kind.

    ``may_block``: it may have to ask another service first, and must not do that on the event loop.
    """

    @property
    def may_block(self) -> bool: ...

    def authenticate(self, request: Request) -> Caller | None: ...


class ApiKeys:
    """Keys in ``X-Api-Key``, ``x-functions-key`` or ``Authorization: ApiKey …``; several at once, for rotation."""

    may_block = False

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


class AuthenticationMiddleware:
    """Lets through probes and authenticated callers; everybody when no authenticator is configured.

    ``unidentified`` is who callers are then: anonymous, or those that a host in front has already let in by a key.
    """

    def __init__(self, app: ASGIApp, authenticators: Sequence[Authenticator], unidentified: Caller = ANONYMOUS) -> None:
        self._app = app
        self._authenticators = list(authenticators)
        self._signs_in = any(isinstance(one, ApiKeys) for one in self._authenticators)
        self._unidentified = unidentified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the caller into the request's state, or answer 401, 403 or 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = await self._caller(Request(scope))
        except Unauthenticated as error:
            await self._refusal(Request(scope), str(error))(scope, receive, send)
        except Forbidden as error:
            await problem(403, str(error))(scope, receive, send)
        except IdentityUnavailable as error:
            await problem(503, str(error), headers=retry_after(RETRY_AFTER_SECONDS))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _caller(self, request: Request) -> Caller:
        if request.url.path in OPEN_PATHS or request.url.path.startswith(_OPEN_TREES):
            return ANONYMOUS
        if not self._authenticators:
            return self._unidentified
        for one in self._authenticators:
            ask = one.authenticate
            caller = await run_in_threadpool(ask, request) if one.may_block else ask(request)
            if caller is not None:
                return caller
        raise Unauthenticated("credentials are required")

    def _refusal(self, request: Request, detail: str) -> Response:
        return _sign_in(request) if self._signs_in and _is_page(request) else _challenge(detail)


def _is_page(request: Request) -> bool:
    """Whether a browser asks for a page, not a program for data."""
    asks_for_html = "text/html" in request.headers.get("accept", "")
    return request.method == "GET" and asks_for_html and not request.url.path.startswith("/api/")


def _sign_in(request: Request) -> Response:
    following = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': following})}", status_code=303)


def _challenge(detail: str) -> Response:
    return problem(401, detail, headers={"WWW-Authenticate": 'ApiKey realm="geoworker", Bearer realm="geoworker"'})
