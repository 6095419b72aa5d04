"""Protection against other sites: every form carries a token, and the request must come from a page of this host.

The token is a keyed hash of a random cookie (signed double submit), so that a page of another site can neither read
nor make one. ``Origin`` (or ``Sec-Fetch-Site``) is checked besides. Sources: OWASP Cross-Site Request Forgery
Prevention Cheat Sheet; Fetch Metadata, https://www.w3.org/TR/fetch-metadata/.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from app.dashboard.session import is_encrypted, set_cookie

COOKIE = "geoworker_csrf"
FIELD = "csrf_token"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class CrossSiteRequest(Exception):
    """The request does not come from a page of ours; ``str()`` says what to do."""


class CsrfGuard:
    """Makes tokens and checks requests. ``secret`` is the same in every process that serves the same pages."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"geoworker dashboard forms", "sha256")

    @staticmethod
    def nonce(request: Request) -> str:
        """The random value that this browser's tokens belong to; a fresh one for a browser without the cookie."""
        given = request.cookies.get(COOKIE, "")
        return (
            given
            if len(given) == 43 and given.replace("-", "").replace("_", "").isalnum()
            else secrets.token_urlsafe(32)
        )

    def token(self, nonce: str, caller: str) -> str:
        """The token of a form for this browser and caller."""
        return hmac.new(self._secret, f"{nonce}|{caller}".encode(), hashlib.sha256).hexdigest()

    def remember(self, request: Request, response: Response, nonce: str) -> None:
        """Give the browser the cookie that its tokens belong to."""
        if request.cookies.get(COOKIE) != nonce:
            set_cookie(response, COOKIE, nonce, secure=is_encrypted(request))

    def check(self, request: Request, token: str, caller: str) -> None:
        """Refuse a request that another site could have caused.

        Raises:
            CrossSiteRequest: saying why.
        """
        check_origin(request)
        nonce = request.cookies.get(COOKIE)
        if nonce is None or not hmac.compare_digest(token.encode(), self.token(nonce, caller).encode()):
            raise CrossSiteRequest("the form is out of date or its cookie is missing; load the page again")


def check_origin(request: Request) -> None:
    """Refuse a request whose page is of another origin, as far as the browser says.

    Raises:
        CrossSiteRequest: when it is.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        raise CrossSiteRequest("the request comes from another site")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise CrossSiteRequest("the request comes from a page of another host")


def check_loopback_host(request: Request) -> None:
    """Without authentication only this machine is served, and only under its own name: another name that leads here
    is how a web page of somewhere else would reach it (DNS rebinding).

    Raises:
        CrossSiteRequest: when the host is no loopback name.
    """
    if urlsplit(f"//{request.headers.get('host', '')}").hostname not in _LOOPBACK:
        raise CrossSiteRequest("without authentication the dashboard answers under localhost or 127.0.0.1 only")
