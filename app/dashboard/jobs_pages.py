"""The overview and the list of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.dashboard.live import Rendered
from app.dashboard.progress import JobProgress, in_words, job_progress
from app.dashboard.site import Site
from app.dashboard.states import JOB_STATES
from app.dashboard.system_page import fleet
from app.dashboard.templating import render
from core.errors import Fault, InvalidInput
from core.records import JobQuery
from core.states import TERMINAL_JOB_STATUSES, JobStatus

PAGE = 50
DAY = timedelta(days=1)
_PERIODS = {"hour": timedelta(hours=1), "day": DAY, "week": timedelta(days=7), "month": timedelta(days=30)}
_RUNNING, _LATEST = 10, 10
_FILTERS = ("status", "type", "period", "id", "before")


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job as a line of a list."""

    job: Mapping[str, Any]
    progress: JobProgress
    seconds: float | None

    @property
    def key(self) -> str:
        """The name of the part that shows it."""
        return f"job-{self.job['job_id']}"

    @property
    def look(self) -> str:
        """The state that it is shown as."""
        return JOB_STATES[self.job["status"]]


def job_lines(site: Site, jobs: Sequence[Mapping[str, Any]]) -> Sequence[JobLine]:
    """Lines of jobs with their progress: three reads for the whole list."""
    open_ids = [job["job_id"] for job in jobs if job["status"] not in TERMINAL_JOB_STATUSES]
    stages = site.reads.stages_of([job["job_id"] for job in jobs if job["status"] != JobStatus.COMPLETED])
    running = site.reads.running_in(open_ids) if open_ids else {}
    now = datetime.now(UTC)
    return [
        JobLine(
            job,
            job_progress(job, stages.get(job["job_id"], ()), running.get(job["job_id"], ()), now),
            (job["finished_at"] - job["created_at"]).total_seconds() if job["finished_at"] else None,
        )
        for job in jobs
    ]


def _lines_rendered(lists: Mapping[str, Sequence[JobLine]], fragments: Mapping[str, str]) -> Rendered:
    parts = {
        f"{name}:{line.key}": render(
            "job_line.html",
            {
                "line": line,
                "part": f"{name}:{line.key}",
                "words": in_words(line.progress.current) if line.progress.current is not None else "",
            },
        )
        for name, listed in lists.items()
        for line in listed
    }
    order = {name: [f"{name}:{line.key}" for line in listed] for name, listed in lists.items()}
    return Rendered(fragments={**fragments, **parts}, lists=order)


def overview_view(site: Site, _: Mapping[str, str]) -> Rendered:
    """The overview's parts."""
    counts = site.reads.counts(DAY)
    running = site.reads.jobs(JobQuery(status=JobStatus.PROCESSING, limit=_RUNNING))
    queued = (
        site.reads.jobs(JobQuery(status=JobStatus.QUEUED, limit=_RUNNING - len(running)))
        if len(running) < _RUNNING
        else []
    )
    failed = [
        job
        for status in (JobStatus.FAILED, JobStatus.COMPLETED_WITH_ERRORS)
        for job in site.reads.jobs(JobQuery(status=status, created_after=datetime.now(UTC) - DAY, limit=_LATEST))
    ]
    latest = site.reads.jobs(JobQuery(limit=_LATEST))
    open_ids = {job["job_id"] for job in (*running, *queued)}
    lists = {
        "running": job_lines(site, [*running, *queued]),
        "failed": job_lines(site, sorted(failed, key=lambda job: job["created_at"], reverse=True)[:_LATEST]),
        "latest": job_lines(site, [job for job in latest if job["job_id"] not in open_ids]),
    }
    tiles = render(
        "tiles.html",
        {
            "running": counts.get("processing", 0),
            "queued": counts.get("queued", 0),
            "completed": counts.get("completed", 0),
            "failed": counts.get("failed", 0) + counts.get("completed_with_errors", 0),
            "undelivered": site.reads.undelivered_count(),
            "fleet": fleet(site),
        },
    )
    empty = {
        f"{name}-empty": render("empty_note.html", {"text": text if not lists[name] else ""})
        for name, text in (
            ("running", "Nothing runs."),
            ("failed", "Nothing failed in the last 24 hours."),
            ("latest", "No job has ended yet."),
        )
    }
    return _lines_rendered(lists, {"tiles": tiles, **empty})


def job_query(parameters: Mapping[str, str]) -> JobQuery:
    """The query of a list's address.

    Raises:
        InvalidInput: when a filter is none of those there are.
    """
    status, period = parameters.get("status", ""), parameters.get("period", "")
    faults = []
    if status and status not in set(JobStatus):
        faults.append(Fault("status", f"must be one of {', '.join(JobStatus)}", status[:50]))
    if period and period not in _PERIODS:
        faults.append(Fault("period", f"must be one of {', '.join(_PERIODS)}", period[:50]))
    if faults:
        raise InvalidInput("filter", faults)
    return JobQuery(
        status=JobStatus(status) if status else None,
        job_type=parameters.get("type") or None,
        created_after=datetime.now(UTC) - _PERIODS[period] if period else None,
        id_prefix=parameters.get("id", "").strip().lower() or None,
        before=parameters.get("before") or None,
        limit=PAGE,
    )


def list_view(site: Site, parameters: Mapping[str, str]) -> Rendered:
    """The list's parts."""
    jobs = site.reads.jobs(job_query(parameters))
    older = None
    if len(jobs) == PAGE:
        kept = {name: value for name, value in parameters.items() if name != "before"}
        older = "/jobs?" + urlencode({**kept, "before": jobs[-1]["job_id"]})
    newest = "/jobs?" + urlencode({name: value for name, value in parameters.items() if name != "before"})
    pager = render(
        "jobs_pager.html",
        {"older": older, "newest": newest if parameters.get("before") else None, "shown": len(jobs)},
    )
    return _lines_rendered({"jobs": job_lines(site, jobs)}, {"pager": pager})


def filters_of(request: Request) -> dict[str, str]:
    """The filters that an address names; empty ones are left out."""
    return {name: value for name in _FILTERS if (value := request.query_params.get(name, "").strip())}


class JobsPages:
    """``/`` and ``/jobs``."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def overview(self, request: Request) -> Response:
        """What runs, what failed, what is there."""
        rendered = await run_in_threadpool(overview_view, self._site, {})
        return self._site.live_page(
            request, "overview.html", {"title": "Overview"}, rendered, view="overview", topic={}
        )

    async def index(self, request: Request) -> Response:
        """Jobs by filter, newest first; the whole id of one leads to it."""
        filters = filters_of(request)
        if len(filters.get("id", "")) >= 40 and len(filters) == 1:
            job = await run_in_threadpool(self._site.application.store.get_job, filters["id"].lower())
            if job is not None:
                return RedirectResponse(f"/jobs/{job.job_id}", status_code=303)
        rendered = await run_in_threadpool(list_view, self._site, filters)
        context = {
            "title": "Jobs",
            "filters": filters,
            "statuses": list(JobStatus),
            "types": sorted(self._site.application.jobs),
            "periods": list(_PERIODS),
        }
        return self._site.live_page(request, "jobs.html", context, rendered, view="jobs", topic=filters)
