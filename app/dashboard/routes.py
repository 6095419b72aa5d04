"""The dashboard's routes: pages, live streams, static files and actions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from app.composition import Application
from app.dashboard.actions import Actions
from app.dashboard.assets import asset
from app.dashboard.job_page import JobPages, job_view, task_view
from app.dashboard.jobs_pages import JobsPages, list_view, overview_view
from app.dashboard.live import LiveView, TooManyClients
from app.dashboard.messages_pages import MessagePages, undelivered_view
from app.dashboard.sign_in import SignIn
from app.dashboard.site import HEADERS, Endpoint, Site
from app.dashboard.submit_page import SubmitPages
from app.dashboard.system_page import SystemPage, system_view

_FOREVER = "public, max-age=31536000, immutable"


def routes(application: Application) -> list[Route]:
    """Everything that a browser asks for. A worker shows and does nothing."""
    site = Site.of(application)
    jobs, job, system, messages = JobsPages(site), JobPages(site), SystemPage(site), MessagePages(site)
    sign_in = SignIn(site)
    pages = [
        Route("/", site.page(jobs.overview), methods=["GET"]),
        Route("/jobs", site.page(jobs.index), methods=["GET"]),
        Route("/jobs/{job_id}", site.page(job.job), methods=["GET"]),
        Route("/jobs/{job_id}/tasks/{task_id}", site.page(job.task), methods=["GET"]),
        Route("/jobs/{job_id}/text/{part}", site.page(job.text), methods=["GET"]),
        Route("/system", site.page(system.show), methods=["GET"]),
        Route("/callbacks", site.page(messages.callbacks), methods=["GET"]),
        Route("/dead-letters", site.page(messages.dead_letters), methods=["GET"]),
        Route("/actions", site.page(messages.actions), methods=["GET"]),
        Route("/live/{view}", site.page(_live(site)), methods=["GET"]),
        Route("/static/{digest}/{name}", static_file, methods=["GET"]),
        Route("/favicon.ico", _no_icon, methods=["GET"]),
    ]
    if site.signs_in:
        pages += [
            Route("/sign-in", site.page(sign_in.form), methods=["GET"]),
            Route("/sign-in", site.page(sign_in.enter), methods=["POST"]),
            Route("/sign-out", site.page(sign_in.leave), methods=["POST"]),
        ]
    return [*pages, *_doing(site)] if site.may_act else pages


def _doing(site: Site) -> list[Route]:
    submit, actions = SubmitPages(site), Actions(site)
    return [
        Route("/submit", site.page(submit.index), methods=["GET"]),
        Route("/submit/{job_type}", site.page(submit.form), methods=["GET"]),
        Route("/submit/{job_type}", site.page(submit.submit), methods=["POST"]),
        Route("/jobs/{job_id}/cancel", site.page(actions.cancel), methods=["POST"]),
        Route("/jobs/{job_id}/replay", site.page(actions.replay), methods=["POST"]),
        Route("/callbacks/{entry_id:int}/replay", site.page(actions.replay_message), methods=["POST"]),
        Route("/dead-letters/{queue}/replay", site.page(actions.replay_letter), methods=["POST"]),
    ]


def _live(site: Site) -> Endpoint:
    views: Mapping[str, LiveView] = {
        "overview": partial(overview_view, site),
        "jobs": partial(list_view, site),
        "job": partial(job_view, site),
        "task": partial(task_view, site),
        "system": partial(system_view, site),
        "callbacks": partial(undelivered_view, site),
    }

    async def live(request: Request) -> Response:
        name = request.path_params["view"]
        view = views.get(name)
        if view is None:
            return PlainTextResponse("no such stream", status_code=404)
        try:
            stream = site.hub.subscribe(name, view, dict(request.query_params), request.headers.get("last-event-id"))
        except TooManyClients as error:
            return PlainTextResponse(str(error), status_code=503, headers={"Retry-After": "15"})
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    return live


async def static_file(request: Request) -> Response:
    """A file of the package; its address has a digest of its content, so it may be kept for ever."""
    found = asset(request.path_params["name"])
    if found is None:
        return PlainTextResponse("no such file", status_code=404)
    headers = {**HEADERS, "Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, media_type=found.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(found.plain, media_type=found.media_type, headers=headers)


async def _no_icon(_: Request) -> Response:
    return Response(status_code=204)
