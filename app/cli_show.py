"""How the command line shows things: tables, bars and the summary of a job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.views import job_status_view
from core.errors import JobNotFound, StoreUnavailable
from core.ports import StateStore
from core.states import TERMINAL_JOB_STATUSES, JobStatus

_COLOURS = {
    "completed": "green",
    "processing": "cyan",
    "queued": "yellow",
    "pending": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "completed_with_errors": "dark_orange",
}
_POLL_SECONDS = 0.25
_LINE_SECONDS = 2.0  # between lines of a watched job, where there is no terminal to draw on


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(data, indent=2, default=str, ensure_ascii=False))


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=_COLOURS.get(status, ""))


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """Jobs, a row each."""
    table = Table(box=None, pad_edge=False)
    for name in ("job", "type", "status", "stage", "created", "run"):
        table.add_column(name)
    for job in jobs:
        table.add_row(
            job["job_id"][:16],
            job["job_type"],
            status_text(job["status"]),
            f"{job['stage']}/{job['total_stages']}",
            (job["created_at"] or "")[:19].replace("T", " "),
            str(job["run"]),
        )
    return table


def watch(store: StateStore, job_id: str, console: Console) -> Mapping[str, Any]:
    """Show a job's stages live until it ends; returns its last view.

    Raises:
        JobNotFound: when there is no such job.
    """
    if not console.is_terminal:
        return _watch_lines(store, job_id, console)
    bars = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=36),
        TextColumn("{task.percentage:>5.1f}%"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
    )
    rows: dict[int, TaskID] = {}
    header = Text()
    with Live(Group(header, bars), console=console, refresh_per_second=8):
        return _follow(store, job_id, lambda view: _draw(view, bars, rows, header))


def _follow(store: StateStore, job_id: str, show: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
    while True:
        try:
            job = store.get_job(job_id)
            if job is None:
                raise JobNotFound(job_id)
            view = job_status_view(store, job)
        except StoreUnavailable:
            time.sleep(_POLL_SECONDS * 4)  # it comes back; the job goes on meanwhile
            continue
        show(view)
        if JobStatus(view["status"]) in TERMINAL_JOB_STATUSES:
            return view
        time.sleep(_POLL_SECONDS)


def _draw(view: Mapping[str, Any], bars: Progress, rows: dict[int, TaskID], header: Text) -> None:
    header.plain = ""
    header.append(f"{view['job_type']} {view['job_id'][:16]}  ").append_text(status_text(view["status"]))
    for stage in view["stages"]:
        number = stage["stage"]
        if number not in rows:
            label = f"{number}/{view['total_stages']} {stage['name']}"
            rows[number] = bars.add_task(label, total=100.0, detail="")
        percent, detail = _stage_progress(view, stage)
        bars.update(rows[number], completed=percent, detail=escape(detail))
        if stage["finished_at"]:
            bars.stop_task(rows[number])


def _stage_progress(view: Mapping[str, Any], stage: Mapping[str, Any]) -> tuple[float, str]:
    running = [task for task in view["running"] if task["stage"] == stage["stage"] and task["progress"]]
    partial = sum(task["progress"]["percent"] for task in running)
    percent = min(100.0, stage["percent"] + partial / max(1, stage["total"]))
    if stage["total"] > 1:
        failed = f", {stage['failed']} failed" if stage["failed"] else ""
        return percent, f"{stage['ended']}/{stage['total']} tasks{failed}"
    if not running:
        return percent, ""
    return percent, progress_text(running[0]["progress"])


def progress_text(progress: Mapping[str, Any]) -> str:
    """What is being done, how fast, and how long it will take: ``writing COG  2.1 M pixels/s  40 s left``."""
    parts = [progress["message"]]
    if progress["rate"]:
        parts.append(f"{_quantity(progress['rate'])} {progress['unit'] or ''}/s")
    if progress["eta_seconds"] is not None:
        parts.append(f"{progress['eta_seconds']:.0f} s left")
    return "  ".join(part for part in parts if part)


def _quantity(value: float) -> str:
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.1f} {suffix}"
    return f"{value:.1f}"


def _watch_lines(store: StateStore, job_id: str, console: Console) -> Mapping[str, Any]:
    """A line whenever a task ends, and every few seconds while one goes on."""
    last, last_state, printed_at = "", "", 0.0

    def show(view: Mapping[str, Any]) -> None:
        nonlocal last, last_state, printed_at
        stages = "; ".join(f"{stage['name']} {stage['ended']}/{stage['total']}" for stage in view["stages"])
        state = f"{view['status']} {stages}"
        at_work = next((task["progress"] for task in view["running"] if task["progress"]), None)
        detail = f"  {progress_text(at_work)}" if at_work is not None else ""
        line = f"{view['status']:<12} {view['percent']:5.1f}%  {stages}{detail}"
        now = time.monotonic()
        if state != last_state or (line != last and now - printed_at >= _LINE_SECONDS):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            last, last_state, printed_at = line, state, now

    return _follow(store, job_id, show)


def print_job(view: Mapping[str, Any], console: Console) -> None:
    """A job with its stages, its errors and what it made."""
    console.print(
        Text.assemble(("job      ", "bold"), view["job_id"]),
        Text.assemble(("type     ", "bold"), f"{view['job_type']}, run {view['run']}"),
        Text.assemble(("status   ", "bold"), status_text(view["status"]), f"  {view['percent']:.0f}%"),
        sep="\n",
    )
    table = Table(box=None, pad_edge=False, title_justify="left")
    for name in ("stage", "task", "runs on", "tasks", "failed", "seconds"):
        table.add_column(name, justify="right" if name in ("tasks", "failed", "seconds") else "left")
    for stage in view["stages"]:
        seconds = f"{stage['seconds']:.2f}" if stage["seconds"] is not None else "…"
        table.add_row(
            f"{stage['stage']} {stage['name']}",
            stage["task_type"],
            stage["runs_on"],
            f"{stage['ended']}/{stage['total']}",
            str(stage["failed"]),
            seconds,
        )
    console.print(table)
    for task in view["running"]:
        if task["progress"]:
            where = f"  task {task['task_index']} of stage {task['stage']}: {task['progress']['percent']:.0f}%"
            console.print(Text(f"{where}  {progress_text(task['progress'])}"))
    if view["error"]:
        console.print(Text.assemble(("error    ", "bold red"), view["error"]["message"]))
    for error in view["errors"][:5]:
        console.print(Text(f"  task {error['task_index']} of stage {error['stage']}: {error['message']}", style="red"))
    for line in result_lines(view["result"] or {}):
        console.print(line)


def result_lines(result: Mapping[str, Any]) -> list[Text]:
    """The outputs of a raster job, one line each; nothing for other jobs."""
    lines: list[Text] = []
    cog = result.get("cog")
    if isinstance(cog, Mapping) and "path" in cog:
        verdict = "valid COG" if cog.get("valid", True) else "NOT a valid COG"
        facts = f"{cog.get('size_bytes', 0) / 1e6:.2f} MB, {cog.get('compression', '')}, {verdict}"
        lines.append(Text.assemble(("COG      ", "bold"), str(cog["path"]), f"  ({facts})"))
    tiles, mosaic = result.get("tiles"), result.get("mosaic")
    if isinstance(mosaic, Mapping) and "path" in mosaic:
        facts = ""
        if isinstance(tiles, Mapping):
            shown = tiles["count"] - tiles["without_data"]
            facts = f"  ({shown} of {tiles['count']} tiles have data, {tiles['size_bytes'] / 1e6:.2f} MB)"
        lines.append(Text.assemble(("mosaic   ", "bold"), str(mosaic["path"]), facts))
    stac = result.get("stac")
    if isinstance(stac, Mapping) and "path" in stac:
        lines.append(Text.assemble(("STAC     ", "bold"), str(stac["path"])))
    thumbnail = result.get("thumbnail")
    if isinstance(thumbnail, Mapping) and "path" in thumbnail:
        lines.append(Text.assemble(("preview  ", "bold"), str(thumbnail["path"])))
    failed = result.get("failed")
    if isinstance(failed, list) and failed and isinstance(failed[0], Mapping):
        lines += [Text.assemble(("failed   ", "bold red"), f"{one['source']}: {one['message']}") for one in failed[:10]]
    return lines
