"""Bars and cells of the timeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from app.dashboard.timeline import CELLS, Span, cell_grid, lanes

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def task(**facts: Any) -> dict[str, Any]:
    known = {
        "task_id": "t",
        "status": "completed",
        "state": "completed",
        "created_at": at(0),
        "started_at": at(1),
        "finished_at": at(10),
        "attempt": 1,
        "lease_owner": None,
    }
    return {**known, **facts}


def attempt(number: int, start: float, end: float, outcome: str) -> dict[str, Any]:
    return {
        "task_id": "t",
        "attempt": number,
        "worker_id": "w",
        "outcome": outcome,
        "started_at": at(start),
        "ended_at": at(end),
    }


def test_waiting_attempts_and_the_time_between_them_are_told_apart() -> None:
    span = Span(at(0), at(10))
    history = [attempt(1, 1, 2, "failed"), attempt(2, 3, 5, "interrupted"), attempt(3, 6, 10, "completed")]
    (lane,) = lanes([task()], {"t": history}, span)
    assert [(bar.state, bar.x, bar.width, bar.thin) for bar in lane.bars] == [
        ("waiting", 0, 10, True),
        ("failed", 10, 10, False),
        ("retrying", 20, 10, True),
        ("interrupted", 30, 20, False),
        ("interrupted", 50, 10, True),
        ("completed", 60, 40, False),
    ]
    assert [bar.resumed for bar in lane.bars if not bar.thin] == [False, False, True]
    assert (lane.worker, lane.seconds) == ("w", 540)


def test_running_and_lost_attempts() -> None:
    span = Span(at(0), at(10))
    running = task(status="processing", state="resumed", started_at=at(8), finished_at=None, attempt=2, lease_owner="v")
    (lane,) = lanes([running], {"t": [attempt(1, 0, 4, "lease_expired")]}, span)
    assert [(bar.state, bar.thin) for bar in lane.bars] == [("failed", False), ("retrying", True), ("resumed", False)]
    assert lane.worker == "v"
    (waiting,) = lanes([task(status="queued", state="waiting", finished_at=None)], {}, span)
    assert [(bar.state, bar.width) for bar in waiting.bars] == [("waiting", 100)]
    (instant,) = lanes([task()], {"t": [attempt(1, 10, 10, "completed")]}, span)
    assert instant.bars[-1].width > 0
    assert instant.bars[-1].x + instant.bars[-1].width <= 100


def test_ten_thousand_tasks_are_four_hundred_cells_that_show_the_most_urgent() -> None:
    rows = [{"cell": cell, "state": "completed", "n": 25} for cell in range(400)]
    rows[7]["n"] = 24
    rows += [{"cell": 7, "state": "failed", "n": 1}]
    grid = cell_grid(rows, 10_000)
    assert (grid.rows, grid.columns, grid.tasks_per_cell) == (8, 50, 25)
    assert grid.counts == {"completed": 9_999, "failed": 1}
    assert sum(run.length for run in grid.runs) == CELLS
    (failed,) = [run for run in grid.runs if run.state == "failed"]
    assert (failed.column, failed.row, failed.first, failed.title) == (7, 0, 175, "tasks 175 to 199: failed")
    small = cell_grid([{"cell": n, "state": "waiting", "n": 1} for n in range(3)], 3)
    assert [(run.length, run.first, run.title) for run in small.runs] == [(3, 0, "tasks 0 to 2: waiting")]


def test_the_end_of_a_running_jobs_time_moves_in_steps() -> None:
    ends = {Span.of(START, None, START + timedelta(seconds=3600 + n)).end for n in range(50)}
    assert len(ends) <= 2
    assert all(end > START + timedelta(seconds=3600) for end in ends)
