"""What every page needs: the composed parts, who looks, the form token, headers, and errors as pages."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from app.api.problems import problem_for
from app.api.requests import BodyTooLarge
from app.composition import Application
from app.dashboard.asked import Asked
from app.dashboard.csrf import FIELD, CrossSiteRequest, CsrfGuard, check_loopback_host
from app.dashboard.letters import Letters
from app.dashboard.live import Hub, LiveView, Rendered
from app.dashboard.session import Sessions
from app.dashboard.templating import environment
from app.process_report import version
from app.recording import record
from app.role import Role
from core.errors import GeoworkerError
from infrastructure.postgres.action_store import Action, Via
from infrastructure.postgres.dashboard_store import DashboardStore

if TYPE_CHECKING:
    from transports.service_bus.depth import QueueDepth

Endpoint = Callable[[Request], Awaitable[Response]]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class HasName(Protocol):
    """A caller."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """The dashboard of one process. ``may_act`` is False where it only shows (a worker)."""

    application: Application
    reads: DashboardStore
    guard: CsrfGuard
    sessions: Sessions
    hub: Hub
    may_act: bool
    signs_in: bool
    open_to_all: bool
    dead_letters: Letters | None = None
    depths: Mapping[str, Asked[QueueDepth]] = field(default_factory=dict)
    views: dict[str, LiveView] = field(default_factory=dict)

    @classmethod
    def of(cls, application: Application) -> Site:
        """The dashboard over the composed parts."""
        settings = application.settings
        # The same in every process that shares keys or database, never sent, and only ever hashed.
        desk = application.dead_letters
        secret = "|".join([*(key.get_secret_value() for key in settings.api_keys), application.pool.conninfo])
        return cls(
            application=application,
            reads=DashboardStore(application.database),
            guard=CsrfGuard(hashlib.sha256(secret.encode()).digest()),
            sessions=Sessions(settings.api_keys),
            hub=Hub(stopped=application.lifecycle.stopped.is_set),
            may_act=Role.ORCHESTRATOR in application.role,
            signs_in=bool(settings.api_keys),
            open_to_all=not settings.has_authentication,
            dead_letters=Letters(desk) if desk is not None else None,
            depths={gauge.queue: Asked("queue depth", gauge.measure) for gauge in application.queue_gauges},
        )

    def page(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint that shows a page: its errors are pages too, and every answer carries the strict headers."""

        async def wrapped(request: Request) -> Response:
            try:
                if self.open_to_all:
                    check_loopback_host(request)
                response = await endpoint(request)
            except CrossSiteRequest as error:
                response = self._error(request, 403, str(error))
            except BodyTooLarge as error:
                response = self._error(request, 413, str(error))
            except GeoworkerError as error:
                found = problem_for(error)
                detail = "The database cannot be reached." if found.status_code == 503 else str(error)
                response = self._error(request, found.status_code, detail)
            response.headers.update(HEADERS)
            return response

        return wrapped

    def _error(self, request: Request, status: int, detail: str) -> Response:
        if wants_json(request):
            return JSONResponse({"error": detail}, status_code=status)
        return self.html(request, "error.html", {"title": "Not possible", "detail": detail}, status=status)

    def html(self, request: Request, template: str, context: Mapping[str, Any], *, status: int = 200) -> Response:
        """A page."""
        nonce = self.guard.nonce(request)
        caller = caller_name(request)
        common = {
            "path": request.url.path,
            "caller": caller,
            "signs_in": self.signs_in,
            "may_act": self.may_act,
            "role": self.application.role.label,
            "mode": str(self.application.settings.docker_orchestration_mode),
            "version": version(),
            "csrf_field": FIELD,
            "csrf_token": self.guard.token(nonce, caller),
            "live": {},
            "events": None,
        }
        response = HTMLResponse(environment().get_template(template).render({**common, **context}), status_code=status)
        self.guard.remember(request, response, nonce)
        return response

    def live_page(
        self,
        request: Request,
        template: str,
        context: Mapping[str, Any],
        rendered: Rendered,
        *,
        view: str,
        topic: Mapping[str, str],
    ) -> Response:
        """A page whose parts are kept up to date from the view of that name."""
        events = f"/live/{view}" + (f"?{urlencode(sorted(topic.items()))}" if topic else "")
        return self.html(
            request, template, {**context, "live": rendered.fragments, "lists": rendered.lists, "events": events}
        )

    async def form(self, request: Request) -> Mapping[str, Sequence[str]]:
        """A checked form: from a page of ours, with its token.

        Raises:
            BodyTooLarge: above the limit.
            CrossSiteRequest: when another site could have sent it.
        """
        limit = self.application.settings.max_body_bytes
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise BodyTooLarge(limit)
        given = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=1000)
        self.guard.check(request, first(given, FIELD), caller_name(request))
        return given

    def record(self, request: Request, action: str, **facts: Any) -> None:
        """Keep who did what."""
        done_by = caller_name(request)
        record(self.application.actions, Action(actor=done_by, via=Via.DASHBOARD, action=action, **facts))


def caller_name(request: Request) -> str:
    """Who looks."""
    caller: HasName | None = getattr(request.state, "caller", None)
    return caller.name if caller is not None else "anonymous"


def first(given: Mapping[str, Sequence[str]], name: str) -> str:
    """The first value of a form's field, or nothing."""
    values = given.get(name, ())
    return values[0] if values else ""


def wants_json(request: Request) -> bool:
    """Whether a script of the page asks, not the browser itself."""
    return request.headers.get("accept", "").startswith("application/json")


def done(request: Request, location: str, message: str) -> Response:
    """The answer to an action that was done: where to go on, and what to say."""
    if wants_json(request):
        return JSONResponse({"location": location, "message": message})
    return RedirectResponse(location, status_code=303)
