"""The Starlette application of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api import artifacts, callbacks, dead_letters, jobs, tasks
from app.api.auth import ANONYMOUS, ApiKeys, AuthenticationMiddleware, Authenticator, Caller
from app.api.openapi import openapi_document
from app.api.problems import on_any_error, on_geoworker_error, on_http_error, problem
from app.api.requests import BodyTooLarge, NotJson
from app.composition import Application
from app.dashboard.routes import routes as dashboard_routes
from app.dashboard.session import SessionCookies, Sessions
from app.health import dead_because, health, not_ready_because
from app.role import Role
from app.settings import Settings
from core.errors import ConfigurationError, Fault, GeoworkerError
from infrastructure.telemetry.asgi import TracingMiddleware


def create_app(
    application: Application, *, manage_lifecycle: bool = True, unidentified: Caller = ANONYMOUS
) -> Starlette:
    """The HTTP side of a process.

    Args:
        application: the wired parts.
        manage_lifecycle: start the parts with the server and drain them with it; False when the caller does.
        unidentified: who callers are when no authenticator is configured; a host in front may have checked a key.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if manage_lifecycle:
            await run_in_threadpool(application.lifecycle.start)
        try:
            yield
        finally:
            if manage_lifecycle and not application.lifecycle.stopped.is_set():
                await run_in_threadpool(application.lifecycle.drain)

    return Starlette(
        routes=_routes(application),
        lifespan=lifespan,
        middleware=[
            Middleware(TracingMiddleware, tracer=application.tracer),
            Middleware(
                AuthenticationMiddleware,
                authenticators=authenticators_for(application.settings),
                unidentified=unidentified,
            ),
        ],
        exception_handlers={
            BodyTooLarge: _too_large,
            NotJson: _not_json,
            GeoworkerError: on_geoworker_error,
            HTTPException: on_http_error,
            Exception: on_any_error,
        },
    )


def authenticators_for(settings: Settings) -> list[Authenticator]:
    """The ways to tell callers apart that the settings name.

    Raises:
        ConfigurationError: when a tenant is named without an audience.
    """
    authenticators: list[Authenticator] = (
        [ApiKeys(settings.api_keys), SessionCookies(Sessions(settings.api_keys))] if settings.api_keys else []
    )
    if settings.entra_tenant_id is not None:
        from app.api.entra import EntraTokens

        if settings.entra_audience is None:
            raise ConfigurationError("settings", [Fault("ENTRA_AUDIENCE", "must be set with ENTRA_TENANT_ID")])
        authenticators.append(
            EntraTokens(
                settings.entra_tenant_id,
                settings.entra_audience,
                settings.entra_allowed_app_ids,
                authority=settings.entra_authority,
            )
        )
    return authenticators


def _routes(application: Application) -> list[Route]:
    async def livez(_: Request) -> Response:
        reason = dead_because(application)
        return JSONResponse({"status": "alive"}) if reason is None else problem(503, f"not alive: {reason}")

    async def readyz(_: Request) -> Response:
        reason = await run_in_threadpool(not_ready_because, application)
        if reason is not None:
            return problem(503, f"not ready: {reason}", headers={"Retry-After": "5"})
        return JSONResponse({"status": "ready"})

    async def full_health(_: Request) -> Response:
        status, body = await run_in_threadpool(health, application)
        return JSONResponse(body, status_code=status)

    async def openapi(_: Request) -> Response:
        return JSONResponse(openapi_document(application))

    async def metrics(_: Request) -> Response:
        text = await run_in_threadpool(application.metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4")

    routes = [
        Route("/metrics", metrics, methods=["GET"]),
        Route("/livez", livez, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/health", full_health, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]
    if Role.ORCHESTRATOR in application.role:
        routes += [*jobs.routes(application), *artifacts.routes(application), *callbacks.receiving(application)]
        if application.settings.enable_test_endpoints:
            from app.api import test_endpoints

            routes += test_endpoints.routes(application)
    if Role.ORCHESTRATOR in application.role or application.trigger is not None:
        routes += callbacks.undelivered(application)
    if application.dead_letters is not None:
        routes += dead_letters.routes(application, application.dead_letters)
    if application.trigger is not None:
        routes += tasks.routes(application, application.trigger)
    return [*routes, *dashboard_routes(application)]


async def _too_large(_: Request, error: Exception) -> Response:
    return problem(413, str(error))


async def _not_json(_: Request, error: Exception) -> Response:
    return problem(415, str(error))
