"""How far a job is, how fast it goes and when it will end, from its stages' counters and its running tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.dashboard.templating import count, duration, quantity

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """A stage's progress. ``rate`` is ready text; ``eta`` the seconds left at that rate, when it can be told."""

    percent: float
    ended: int
    total: int
    message: str = ""
    rate: str = ""
    eta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """A job's progress over all stages, and that of the stage it is at."""

    percent: float
    stage_name: str
    current: StageProgress | None

    @property
    def announcement(self) -> str:
        """The progress in words, in steps of ten percent, for a live region."""
        return f"{int(self.percent // 10) * 10} percent" + (f", {self.stage_name}" if self.stage_name else "")


def stage_progress(stage: Row, running: Sequence[Row], now: datetime) -> StageProgress:
    """The progress of one planned stage; ``running`` are its running tasks."""
    total, ended = stage["total"], stage["total"] - stage["remaining"]
    reports = [task["progress"] for task in running if task["progress"]]
    partial = sum(float(report["percent"]) for report in reports) / 100
    percent = 100.0 if total == 0 else min(100.0, 100.0 * (ended + partial) / total)
    if stage["finished_at"] is not None:
        return StageProgress(percent=percent, ended=ended, total=total)
    if total > len(running) and ended:
        elapsed = (now - stage["created_at"]).total_seconds()
        if elapsed > 0:
            per_second = ended / elapsed
            return StageProgress(
                percent=percent,
                ended=ended,
                total=total,
                rate=_task_rate(per_second),
                eta=(total - ended - partial) / per_second,
            )
    if len(reports) == 1:
        report = reports[0]
        unit = f"{report['unit'] or ''}/s".lstrip()
        return StageProgress(
            percent=percent,
            ended=ended,
            total=total,
            message=str(report["message"] or "")[:200],
            rate=f"{quantity(report['rate'])}{unit}" if report["rate"] else "",
            eta=report["eta_seconds"],
        )
    etas = [report["eta_seconds"] for report in reports if report["eta_seconds"] is not None]
    return StageProgress(percent=percent, ended=ended, total=total, eta=max(etas, default=None))


def _task_rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{quantity(per_second)}tasks/s"
    if per_second * 60 >= 1:
        return f"{quantity(per_second * 60)}tasks/min"
    return f"{quantity(per_second * 3600)}tasks/h"


def job_progress(job: Row, stages: Sequence[Row], running: Sequence[Row], now: datetime) -> JobProgress:
    """The progress of a job."""
    if job["status"] == "completed":
        return JobProgress(percent=100.0, stage_name="", current=None)
    found = {
        stage["stage"]: stage_progress(stage, [task for task in running if task["stage"] == stage["stage"]], now)
        for stage in stages
    }
    percent = sum(one.percent for one in found.values()) / max(1, job["total_stages"])
    at = next((stage for stage in stages if stage["stage"] == job["stage"]), None)
    return JobProgress(
        percent=round(min(100.0, percent), 1),
        stage_name=at["name"] if at is not None else "",
        current=found[at["stage"]] if at is not None else None,
    )


def in_words(progress: StageProgress) -> str:
    """``1 200 of 10 000 tasks · 35 tasks/s · 4 min 10 s left``."""
    parts = [f"{count(progress.ended)} of {count(progress.total)} tasks"] if progress.total != 1 else []
    parts += [part for part in (progress.message, progress.rate) if part]
    if progress.eta is not None:
        parts.append(f"{duration(progress.eta)} left")
    return " · ".join(parts)
