"""Signing in on a page: an API key becomes a signed cookie that scripts cannot read and other sites cannot send.

The cookie holds no key. It names the key by number, the person who signed in and when it ends, and is signed with a
secret derived from that key: it holds in every process that accepts the key, and ends when the key is taken away.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from app.api.auth import Caller

COOKIE = "geoworker_session"
LIFETIME_SECONDS = 12 * 3600
_PURPOSE = b"geoworker dashboard session"
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_FORM_PATHS = ("/jobs/", "/submit/", "/callbacks/", "/dead-letters/", "/sign-out")


@dataclass(frozen=True, slots=True)
class Session:
    """Who signed in (``person`` as they named themselves) with which key (counted from 1), until when (Unix time)."""

    key: int
    person: str
    ends: int

    @property
    def caller(self) -> Caller:
        """The caller that actions are recorded under."""
        return Caller(f"api-key:{self.key}/{self.person}" if self.person else f"api-key:{self.key}")


class Sessions:
    """Makes and reads session cookies. Several keys are accepted at once, as in the API."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        digests = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]
        self._digests = digests
        self._secrets = [hmac.digest(digest, _PURPOSE, "sha256") for digest in digests]

    def begin(self, api_key: str, person: str) -> Session | None:
        """The session of whoever knows a key; None when it is not accepted. Every key is compared, in constant time."""
        digest = hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            return None
        return Session(matches.index(True) + 1, person, int(time.time()) + LIFETIME_SECONDS)

    def encode(self, session: Session) -> str:
        """The cookie's value."""
        payload = base64.urlsafe_b64encode(json.dumps([session.key, session.person, session.ends]).encode())
        return f"{payload.decode()}.{self._signature(session.key, payload)}"

    def decode(self, value: str) -> Session | None:
        """The session in a cookie; None when it is none of ours, altered or over."""
        payload, _, signature = value.partition(".")
        try:
            key, person, ends = json.loads(base64.urlsafe_b64decode(payload))
            session = Session(int(key), str(person), int(ends))
        except (ValueError, TypeError):
            return None
        if not 1 <= session.key <= len(self._secrets):
            return None
        if not hmac.compare_digest(signature.encode(), self._signature(session.key, payload.encode()).encode()):
            return None
        return session if session.ends > time.time() else None

    def _signature(self, key: int, payload: bytes) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._secrets[key - 1], payload, "sha256")).decode()


class SessionCookies:
    """The authenticator of browsers: reads for any page, changes only for the dashboard's own forms.

    The API's POST routes do not take the cookie: what they change needs a key or a token in a header, which no other
    site can make a browser send.
    """

    may_block = False

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def authenticate(self, request: Request) -> Caller | None:
        """The caller of a valid session cookie."""
        value = request.cookies.get(COOKIE)
        if value is None:
            return None
        if request.method not in _SAFE_METHODS and not request.url.path.startswith(_FORM_PATHS):
            return None
        session = self._sessions.decode(value)
        return session.caller if session is not None else None


def is_encrypted(request: Request) -> bool:
    """Whether the browser came by HTTPS, here or to a proxy in front."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").startswith("https")


def set_cookie(response: Response, name: str, value: str, *, secure: bool, max_age: int | None = None) -> None:
    """A cookie that scripts cannot read and that other sites cannot make the browser send."""
    response.set_cookie(name, value, max_age=max_age, path="/", secure=secure, httponly=True, samesite="strict")
