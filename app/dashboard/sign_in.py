"""Signing in with an API key, and out."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.dashboard.session import COOKIE, LIFETIME_SECONDS, is_encrypted, set_cookie
from app.dashboard.site import Site, first
from app.recording import record
from infrastructure.postgres.action_store import Action, Via

_PERSON = re.compile(r"[^\w .@+-]+")
_MOST_PERSON = 60


class SignIn:
    """``/sign-in`` and ``/sign-out``."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def form(self, request: Request) -> Response:
        """The form."""
        return self._form(request, request.query_params.get("next", "/"))

    def _form(self, request: Request, following: str, fault: str = "", *, status: int = 200) -> Response:
        context = {"title": "Sign in", "next": own_path(following), "fault": fault}
        return self._site.html(request, "sign_in.html", context, status=status)

    async def enter(self, request: Request) -> Response:
        """Begin a session, or show the form again."""
        given = await self._site.form(request)
        following = own_path(first(given, "next"))
        person = _PERSON.sub(" ", first(given, "person")).strip()[:_MOST_PERSON]
        session = self._site.sessions.begin(first(given, "api_key").strip(), person)
        if session is None:
            return self._form(request, following, "This API key is not accepted.", status=401)
        signed_in = Action(actor=session.caller.name, via=Via.DASHBOARD, action="sign_in")
        await run_in_threadpool(record, self._site.application.actions, signed_in)
        response = RedirectResponse(following, status_code=303)
        secure = is_encrypted(request)
        set_cookie(response, COOKIE, self._site.sessions.encode(session), secure=secure, max_age=LIFETIME_SECONDS)
        return response

    async def leave(self, request: Request) -> Response:
        """End the session in this browser."""
        await self._site.form(request)
        response = RedirectResponse("/sign-in", status_code=303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response


def own_path(text: str) -> str:
    """``text`` when it is a path of this host, else the first page."""
    parts = urlsplit(text)
    safe = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.netloc and "\\" not in text
    return text if safe and text.isprintable() else "/"
