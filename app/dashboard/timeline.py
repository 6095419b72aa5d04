"""Tasks over time: lanes with a bar for each attempt, and cells that stand for thousands of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from app.dashboard.states import NAMES, URGENT_FIRST
from app.dashboard.templating import duration

Row = Mapping[str, Any]

CELLS = 400
COLUMNS = 50
_LEAST_WIDTH = 0.35  # percent: a task of an instant can still be seen
_SPACES = {"failed": "retrying", "lease_expired": "retrying", "interrupted": "interrupted"}
_BARS = {"lease_expired": "failed"}


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a timeline shows."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: datetime, end: datetime | None, now: datetime) -> Span:
        """From ``start`` to ``end``; while there is none, to now, in steps that grow with the time gone by."""
        if end is not None:
            return cls(start, max(end, start + timedelta(milliseconds=1)))
        step = max(1.0, round((now - start).total_seconds() / 60))
        gone = (int((now - start).total_seconds() / step) + 1) * step
        return cls(start, start + timedelta(seconds=gone))

    def percent(self, moment: datetime) -> float:
        """Where a moment lies, from 0 to 100."""
        share = (moment - self.start) / (self.end - self.start)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> Sequence[tuple[float, str]]:
        """Four marks: place and time since the start."""
        seconds = (self.end - self.start).total_seconds()
        return [(25.0 * n, duration(seconds * n / 4)) for n in range(5)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A piece of a lane: ``x`` and ``width`` in percent; ``thin`` for time in which nobody worked."""

    x: float
    width: float
    state: str
    title: str
    thin: bool = False
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One task: its row and its pieces of time."""

    task: Row
    attempts: Sequence[Row]
    bars: Sequence[Bar]

    @property
    def worker(self) -> str:
        """Who runs it, or ran it last."""
        return self.task["lease_owner"] or (self.attempts[-1]["worker_id"] if self.attempts else "")

    @property
    def seconds(self) -> float | None:
        """How long it has taken from its first attempt, once it has begun and ended."""
        begun = self.attempts[0]["started_at"] if self.attempts else self.task["started_at"]
        return (self.task["finished_at"] - begun).total_seconds() if begun and self.task["finished_at"] else None


def lanes(tasks: Sequence[Row], attempts: Mapping[str, Sequence[Row]], span: Span) -> Sequence[Lane]:
    """A lane for each task."""
    return [
        Lane(task=task, attempts=ended, bars=_bars(task, ended, span))
        for task in tasks
        for ended in [attempts.get(task["task_id"], ())]
    ]


def _bars(task: Row, ended: Sequence[Row], span: Span) -> Sequence[Bar]:
    bars: list[Bar] = []
    free_since, space = task["created_at"], "waiting"
    for attempt in ended:
        bars.append(_space(span, free_since, attempt["started_at"], space))
        state = _BARS.get(attempt["outcome"], str(attempt["outcome"]))
        took = duration((attempt["ended_at"] - attempt["started_at"]).total_seconds())
        how = str(attempt["outcome"]).replace("_", " ")
        title = f"attempt {attempt['attempt']}: {how} after {took} on {attempt['worker_id']}"
        again = bool(bars and space == "interrupted")
        bars.append(_bar(span, attempt["started_at"], attempt["ended_at"], state, title, resumed=again))
        free_since, space = attempt["ended_at"], _SPACES.get(attempt["outcome"], "waiting")
    if task["status"] == "processing":
        bars.append(_space(span, free_since, task["started_at"], space))
        title = f"attempt {task['attempt']}: running on {task['lease_owner']}"
        bars.append(_bar(span, task["started_at"], span.end, task["state"], title, resumed=task["state"] == "resumed"))
    elif task["status"] in {"pending", "queued"}:
        bars.append(_space(span, free_since, span.end, task["state"]))
    elif task["finished_at"] is not None and not ended:
        bars.append(_space(span, free_since, task["finished_at"], task["state"]))
    return [bar for bar in bars if bar.width > 0]


def _bar(span: Span, start: datetime, end: datetime, state: str, title: str, *, resumed: bool) -> Bar:
    x = min(span.percent(start), 100 - _LEAST_WIDTH)
    width = max(round(span.percent(end) - x, 2), _LEAST_WIDTH)
    return Bar(x=x, width=width, state=state, title=title, resumed=resumed)


def _space(span: Span, start: datetime, end: datetime, state: str) -> Bar:
    x = span.percent(start)
    width = round(span.percent(end) - x, 2)
    gone = duration((end - start).total_seconds())
    return Bar(x=x, width=width, state=state, title=f"{state} for {gone}", thin=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring cells of one row that show one state; ``first`` is the index of the first task in them."""

    column: int
    row: int
    length: int
    state: str
    first: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellGrid:
    """All tasks of a stage in at most 400 cells, and how many there are of each state."""

    runs: Sequence[Run]
    rows: int
    columns: int
    tasks_per_cell: int
    counts: Mapping[str, int]


def cell_grid(rows: Sequence[Row], total: int) -> CellGrid:
    """Cells from the counts of states by cell."""
    size = max(1, -(-total // CELLS))
    counts = dict.fromkeys(NAMES, 0)
    cells: dict[int, dict[str, int]] = {}
    for row in rows:
        counts[row["state"]] += row["n"]
        cells.setdefault(row["cell"], {})[row["state"]] = row["n"]
    shown = [(cell, min(states, key=URGENT_FIRST.index)) for cell, states in sorted(cells.items())]
    runs = []
    for (line, state), group in groupby(shown, key=lambda one: (one[0] // COLUMNS, one[1])):
        for start, length in _neighbours([cell for cell, _ in group]):
            first, last = start * size, min(total, (start + length) * size) - 1
            title = f"task {first}: {state}" if first == last else f"tasks {first} to {last}: {state}"
            runs.append(Run(column=start % COLUMNS, row=line, length=length, state=state, first=first, title=title))
    number = len(shown)
    return CellGrid(
        runs=runs,
        rows=max(1, -(-number // COLUMNS)),
        columns=min(COLUMNS, max(1, number)),
        tasks_per_cell=size,
        counts={name: n for name, n in counts.items() if n},
    )


def _neighbours(cells: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (start, length)."""
    runs: list[tuple[int, int]] = []
    for cell in cells:
        if runs and cell == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((cell, 1))
    return runs
