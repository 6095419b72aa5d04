"""What a running task is given: its identity, its checkpoint, its stop signal and a way to report progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from core.errors import ErrorInfo
from core.records import Progress
from core.stopping import StopReason, StopToken
from core.work_directories import task_directory

ArtifactCheck = Callable[[], bool]
"""Says whether what a phase produced is there and whole. A checkpoint is saved only when it returns True."""


class ItemLog(Protocol):
    """The finished items of one phase (tiles, batches), saved in bulk about once a second.

    After a kill at most the items of the last unsaved second are done again.
    """

    def __contains__(self, key: str) -> bool: ...

    def __len__(self) -> int: ...

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was recorded for a finished item, or None."""
        ...

    def items(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """All finished items with what was recorded."""
        ...

    def mark(self, key: str, data: Mapping[str, Any] | None = None) -> None:
        """Record an item as finished. Raises ClaimLost when another attempt owns the task."""
        ...

    def flush(self) -> None:
        """Save what is still buffered, now."""
        ...


class TaskCheckpoint(Protocol):
    """The handler's side of ``infrastructure.checkpoint_manager.CheckpointManager``."""

    def should_skip(self, phase: int) -> bool:
        """Whether that phase is complete (and what it left still passes its checks)."""
        ...

    def save(
        self,
        phase: int,
        data: Mapping[str, Any] | None = None,
        validate_artifact: ArtifactCheck | None = None,
        *,
        artifacts: Iterable[Path | str] = (),
    ) -> None:
        """Record ``phase`` as complete and merge ``data`` into the task's data.

        ``artifacts`` are files whose size and SHA-256 are recorded and verified when a later attempt loads the
        checkpoint. A failed save is an error.
        """
        ...

    def get_data(self, key: str, default: Any = None) -> Any:
        """What an earlier phase saved under ``key``."""
        ...

    def save_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Record a place within the running phase. Never makes resume skip the rest of it."""
        ...

    @property
    def cursor(self) -> Mapping[str, Any] | None:
        """The place within the running phase that an earlier attempt recorded."""
        ...

    def items(self, phase: int) -> ItemLog:
        """The finished items of ``phase``."""
        ...

    def is_shutdown_requested(self) -> bool:
        """Whether this task was asked to stop."""
        ...

    def should_stop(self) -> bool:
        """The same."""
        ...

    def save_and_stop_if_requested(self, phase: int, data: Mapping[str, Any] | None = None) -> bool:
        """Save ``phase``, then say whether the task was asked to stop."""
        ...

    def reset(self) -> None:
        """Forget everything saved: the task starts over."""
        ...


class ProgressSink(Protocol):
    """Where progress goes."""

    def __call__(self, progress: Progress) -> None: ...


@dataclass(kw_only=True)
class DockerTaskContext:
    """Reaches a handler as its second argument.

    ``work_root`` holds the :attr:`work_dir` of each task; ``services`` are what this process offers, by name.
    ``previous_error`` is how the last failed attempt failed (``code`` is ``MEMORY`` or ``OUT_OF_MEMORY`` when it used
    too much memory, ``TIMEOUT`` when it took too long), so that a handler can go about it otherwise.
    ``task_repo`` is for handlers that make their own ``CheckpointManager(task_id, task_repo)``.
    """

    task_id: str
    job_id: str
    job_type: str
    task_type: str
    stage: int
    attempt: int
    worker_id: str
    checkpoint: TaskCheckpoint
    stop: StopToken
    progress_sink: ProgressSink
    work_root: Path
    services: Mapping[str, Any] = field(default_factory=dict)
    previous_error: ErrorInfo | None = None
    task_repo: object | None = None
    _started: float = field(default_factory=time.monotonic, repr=False)
    _base: float | None = field(default=None, repr=False)

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines carry this task's ids."""
        return logging.getLogger(f"geoworker.handler.{self.task_type}")

    @property
    def work_path(self) -> Path:
        """Where :attr:`work_dir` is, made or not."""
        return self.work_root / task_directory(self.task_id)

    @property
    def work_dir(self) -> Path:
        """A directory of this task's own for temporary files, made when first asked for.

        It is never shared with another task, and a later attempt on the same mount finds what was left in it.
        """
        path = self.work_path
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the task was asked to stop, or None."""
        return self.stop.reason

    def should_stop(self) -> bool:
        """Whether the handler should save its checkpoint and return ``{"success": True, "interrupted": True}``."""
        return self.stop.requested

    def interrupted(self, **data: Any) -> dict[str, Any]:
        """What a handler returns after it has stopped on request."""
        return {"success": True, "interrupted": True, "resumable": True, **data}

    def report_progress(
        self,
        percent: float | None = None,
        message: str = "",
        *,
        done: float | None = None,
        total: float | None = None,
        unit: str | None = None,
    ) -> None:
        """Say how far the task is. Cheap to call often: the sink writes twice a second, and always the last report.

        Args:
            percent: 0 to 100; derived from ``done`` and ``total`` when left out.
            message: what is being done, for people.
            done: units finished, including those of earlier attempts.
            total: units in all.
            unit: what is counted (``pixels``, ``cells``, ``tiles``).
        """
        if percent is None:
            percent = 100.0 * done / total if done is not None and total else 0.0
        percent = min(100.0, max(0.0, float(percent)))
        now = time.monotonic()
        rate = eta = None
        if done is not None:
            if self._base is None or done < self._base:
                self._base, self._started = done, now
            elapsed = now - self._started
            if elapsed > 0 and done > self._base:
                rate = (done - self._base) / elapsed
                eta = (total - done) / rate if total is not None else None
        self.progress_sink(
            Progress(
                percent=percent,
                message=message,
                done=done,
                total=total,
                unit=unit,
                rate=rate,
                eta_seconds=eta,
            )
        )
