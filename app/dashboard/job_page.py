"""A job: stages and tasks over time, errors, checkpoints, messages, results and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.api.requests import query_int
from app.artifacts import Artifact, artifacts_of
from app.dashboard.live import Rendered
from app.dashboard.pictures import Gallery, gallery
from app.dashboard.progress import job_progress, stage_progress
from app.dashboard.site import Site
from app.dashboard.states import JOB_STATES, NAMES, TASK_STATES
from app.dashboard.templating import pretty, render
from app.dashboard.timeline import CELLS, Span, cell_grid, lanes
from core.errors import Fault, InvalidInput, JobNotFound, TaskNotFound, TransientError
from core.records import JobRecord, StageRecord, TaskRecord
from core.states import TERMINAL_JOB_STATUSES, TERMINAL_TASK_STATUSES, JobStatus

LANES = 40
_FILTERS = ("stage", "start", "state")


def find_job(site: Site, job_id: str) -> JobRecord:
    """The job, or JobNotFound."""
    job = site.application.store.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id[:200])
    return job


def _as_row(record: JobRecord | StageRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def job_view(site: Site, parameters: Mapping[str, str]) -> Rendered:
    """The page's parts."""
    job = find_job(site, parameters["job_id"])
    now = datetime.now(UTC)
    stages = [_as_row(stage) for stage in site.application.store.list_stages(job.job_id)]
    running = site.reads.running_in([job.job_id]).get(job.job_id, ())
    cells = site.reads.cells(job.job_id, CELLS)
    grids = {stage["stage"]: cell_grid(cells.get(stage["stage"], ()), stage["total"]) for stage in stages}
    saved = site.reads.saved_phases(job.job_id)
    span = Span.of(job.created_at or now, job.finished_at, now)
    begun = job.started_at or job.created_at
    common = {"job": job, "ended": job.status in TERMINAL_JOB_STATUSES, "look": JOB_STATES[job.status]}
    at_work = [
        {
            "stage": stage,
            "grid": grids[stage["stage"]],
            "progress": stage_progress(stage, [task for task in running if task["stage"] == stage["stage"]], now),
            "x": span.percent(stage["created_at"]),
            "width": max(
                0.4, span.percent(stage["finished_at"] or job.finished_at or now) - span.percent(stage["created_at"])
            ),
        }
        for stage in stages
    ]
    still = {name: sum(grid.counts.get(name, 0) for grid in grids.values()) for name in NAMES}
    return Rendered(
        fragments={
            "head": render(
                "job_head.html",
                {
                    **common,
                    "progress": job_progress(_as_row(job), stages, running, now),
                    "seconds": ((job.finished_at or now) - begun).total_seconds() if begun is not None else None,
                },
            ),
            "stages": render("job_stages.html", {**common, "stages": at_work, "span": span, "states": TASK_STATES}),
            "lanes": render("job_lanes.html", {**common, **_lanes(site, job, parameters, grids, span)}),
            "errors": render("job_errors.html", {**common, "errors": site.reads.errors(job.job_id)}),
            "checkpoints": render("job_checkpoints.html", {**common, "saved": saved}),
            "messages": render(
                "job_messages.html",
                {
                    **common,
                    "counts": site.reads.message_counts(job.job_id),
                    "messages": site.reads.messages(job.job_id, limit=30),
                },
            ),
            "history": render(
                "job_history.html",
                {
                    **common,
                    "runs": site.reads.runs(job.fingerprint),
                    "actions": site.application.actions.of_job(job.job_id),
                },
            ),
            "result": _result(site, job, common),
            "cancel-says": render("cancel_says.html", {"still": still}),
            "replay-choices": render(
                "replay_choices.html", {**common, "stages": stages, "saved": saved, "still": still}
            ),
        }
    )


def _lanes(
    site: Site, job: JobRecord, parameters: Mapping[str, str], grids: Mapping[int, Any], span: Span
) -> dict[str, Any]:
    chosen = int(parameters.get("stage", "0")) or _interesting_stage(job, grids)
    start, state = int(parameters.get("start", "0")), parameters.get("state")
    tasks = site.reads.lanes(job.job_id, chosen, start=start, state=state, limit=LANES + 1) if chosen else []
    shown = tasks[:LANES]
    return {
        "stage": chosen,
        "numbers": sorted(grids),
        "start": start,
        "state": state,
        "counts": grids[chosen].counts if chosen in grids else {},
        "following": tasks[LANES]["task_index"] if len(tasks) > LANES else None,
        "before": max(0, start - LANES) if start else None,
        "lanes": lanes(shown, site.reads.attempts_of([task["task_id"] for task in shown]), span),
        "span": span,
    }


def _interesting_stage(job: JobRecord, grids: Mapping[int, Any]) -> int:
    """The first stage with failures, else the stage that the job is at."""
    failed = [number for number, grid in sorted(grids.items()) if grid.counts.get("failed")]
    return failed[0] if failed else job.stage


def _result(site: Site, job: JobRecord, common: Mapping[str, Any]) -> str:
    if job.result_data is None and job.error_details is None:
        return render("job_result.html", {**common, "gallery": Gallery(), "result": None})
    text = pretty(job.result_data) if job.result_data is not None else None
    shown = _job_gallery(site, job) if job.result_data is not None else Gallery()
    return render("job_result.html", {**common, "gallery": shown, "result": text})


def _job_gallery(site: Site, job: JobRecord) -> Gallery:
    try:
        return _gallery_of(site, job.job_id, str(job.finished_at))
    except TransientError:
        return gallery(job.job_id, job.result_data or {}, _artifacts(site, job.job_id), with_item=False)


def _artifacts(site: Site, job_id: str) -> Mapping[str, Artifact]:
    application = site.application
    return artifacts_of(application.store, job_id, application.settings.output_dir, application.storage)


@lru_cache(maxsize=64)
def _gallery_of(site: Site, job_id: str, finished: str) -> Gallery:  # noqa: ARG001 - a job ends once
    """The gallery of an ended job; files are looked at once."""
    job = find_job(site, job_id)
    return gallery(job_id, job.result_data or {}, _artifacts(site, job_id))


def task_view(site: Site, parameters: Mapping[str, str]) -> Rendered:
    """The parts of a task's page."""
    task = find_task(site, parameters["job_id"], parameters["task_id"])
    now = datetime.now(UTC)
    (row,) = site.reads.lanes(task.job_id, task.stage, start=task.task_index, state=None, limit=1)
    attempts = site.reads.attempts_of([task.task_id])
    span = Span.of(task.created_at or now, task.finished_at, now)
    checkpoint = site.reads.checkpoint(task.task_id)
    context = {
        "task": task,
        "row": row,
        "lane": lanes([row], attempts, span)[0],
        "span": span,
        "history": site.application.store.list_attempts(task.task_id),
        "ended": task.status in TERMINAL_TASK_STATUSES,
    }
    return Rendered(
        fragments={
            "head": render("task_head.html", context),
            "timeline": render("task_timeline.html", {**context, "states": TASK_STATES}),
            "attempts": render("task_attempts.html", context),
            "checkpoint": render(
                "task_checkpoint.html",
                {**context, "saved": checkpoint, "items": site.reads.item_counts(task.task_id)},
            ),
            "messages": render(
                "job_messages.html",
                {**context, "counts": [], "messages": site.reads.messages(task.job_id, task_id=task.task_id)},
            ),
            "result": _task_result(site, task),
        }
    )


def find_task(site: Site, job_id: str, task_id: str) -> TaskRecord:
    """The task of that job, or TaskNotFound."""
    task = site.application.store.get_task(task_id)
    if task is None or task.job_id != job_id:
        raise TaskNotFound(task_id[:200])
    return task


def _task_result(site: Site, task: TaskRecord) -> str:
    if task.result_data is None:
        return render("task_result.html", {"task": task, "gallery": Gallery(), "result": None})
    try:
        shown = _task_gallery(site, task.job_id, task.task_id, str(task.finished_at))
    except TransientError:
        shown = gallery(task.job_id, task.result_data, _named_by(site, task), with_item=False)
    return render("task_result.html", {"task": task, "gallery": shown, "result": pretty(task.result_data)})


@lru_cache(maxsize=64)
def _task_gallery(site: Site, job_id: str, task_id: str, finished: str) -> Gallery:  # noqa: ARG001 - a task ends once
    task = find_task(site, job_id, task_id)
    return gallery(job_id, task.result_data or {}, _named_by(site, task))


def _named_by(site: Site, task: TaskRecord) -> Mapping[str, Artifact]:
    named = set(_paths(task.result_data))
    return {name: one for name, one in _artifacts(site, task.job_id).items() if one.address in named}


def _paths(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [path for inner in value.values() for path in _paths(inner)]
    return [path for inner in value for path in _paths(inner)] if isinstance(value, list) else []


class JobPages:
    """``/jobs/{job_id}``, its tasks, and long texts in full."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def job(self, request: Request) -> Response:
        """The job's page."""
        parameters = {"job_id": request.path_params["job_id"], **self._filters(request)}
        rendered = await run_in_threadpool(job_view, self._site, parameters)
        job = await run_in_threadpool(find_job, self._site, parameters["job_id"])
        context = {
            "title": f"{job.job_type} {job.job_id[:10]}",
            "job": job,
            "ended": job.status in TERMINAL_JOB_STATUSES,
            "completed": job.status is JobStatus.COMPLETED,
            "parameters": pretty(job.parameters),
        }
        return self._site.live_page(request, "job.html", context, rendered, view="job", topic=parameters)

    @staticmethod
    def _filters(request: Request) -> dict[str, str]:
        """Which tasks are shown.

        Raises:
            InvalidInput: when a filter is none of those there are.
        """
        query_int(request, "stage", 0, low=0, high=1000)
        query_int(request, "start", 0, low=0, high=10_000_000)
        state = request.query_params.get("state", "")
        if state and state not in NAMES:
            raise InvalidInput("filter", [Fault("state", f"must be one of {', '.join(NAMES)}", state[:50])])
        return {name: value for name in _FILTERS if (value := request.query_params.get(name))}

    async def task(self, request: Request) -> Response:
        """A task's page."""
        parameters = {name: request.path_params[name] for name in ("job_id", "task_id")}
        rendered = await run_in_threadpool(task_view, self._site, parameters)
        task = await run_in_threadpool(find_task, self._site, parameters["job_id"], parameters["task_id"])
        context = {
            "title": f"Task {task.task_index} of stage {task.stage}",
            "task": task,
            "parameters": pretty(task.parameters),
        }
        return self._site.live_page(request, "task.html", context, rendered, view="task", topic=parameters)

    async def text(self, request: Request) -> Response:
        """A long text in full, as plain text that no browser runs."""
        part, job_id = request.path_params["part"], request.path_params["job_id"]
        task_id = request.query_params.get("task")
        text = await run_in_threadpool(self._text, job_id, task_id, part)
        return PlainTextResponse(text)

    def _text(self, job_id: str, task_id: str | None, part: str) -> str:
        record: JobRecord | TaskRecord = (
            find_job(self._site, job_id) if task_id is None else find_task(self._site, job_id, task_id)
        )
        error = record.error_details
        match part:
            case "parameters":
                return pretty(record.parameters)
            case "result":
                return pretty(record.result_data)
            case "error":
                return pretty(error.as_dict()) if error is not None else ""
            case "message":
                return error.message if error is not None else ""
            case "traceback":
                return (error.traceback or "") if error is not None else ""
            case "checkpoint" if task_id is not None:
                return pretty(dict(self._site.reads.checkpoint(task_id) or {}))
            case _:
                known = "parameters, result, error, message, traceback, checkpoint"
                raise InvalidInput("text", [Fault("part", f"must be one of {known}", part[:50])])
