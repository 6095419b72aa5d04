"""The states that pages show, each with a word, a colour class and a shape of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class State:
    """``name`` is the CSS class and the symbol's id; ``about`` is what the legend says."""

    name: str
    about: str


TASK_STATES: tuple[State, ...] = (
    State("waiting", "planned or queued, not begun"),
    State("running", "at its first attempt"),
    State("retrying", "failed, waits for its next attempt"),
    State("interrupted", "stopped for a shutdown, waits to go on"),
    State("resumed", "running again after an interruption or failure"),
    State("completed", "done"),
    State("failed", "given up"),
    State("cancelled", "no longer wanted"),
)
NAMES = tuple(state.name for state in TASK_STATES)

URGENT_FIRST = ("failed", "retrying", "interrupted", "resumed", "running", "cancelled", "waiting", "completed")
"""Which state a cell of several tasks shows: the one that asks for a look."""

JOB_STATES = {
    "queued": "waiting",
    "processing": "running",
    "completed": "completed",
    "completed_with_errors": "partial",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""The look of each job status."""
