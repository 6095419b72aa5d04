"""What a process of the worker does."""

from __future__ import annotations

from enum import Flag, auto


class Role(Flag):
    """What a process does: plan jobs and run short stages, run long tasks, or both (embedded)."""

    ORCHESTRATOR = auto()
    WORKER = auto()
    EMBEDDED = ORCHESTRATOR | WORKER

    @property
    def label(self) -> str:
        """The role in one word."""
        return (self.name or "process").lower()
