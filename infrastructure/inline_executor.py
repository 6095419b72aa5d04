"""Runs handlers in the calling thread: functions, the command line and tests. Same port as the process executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from core.errors import UnknownTaskType
from core.handlers import HandlerRegistry
from core.ports import CheckpointStore, Execution, Raised
from core.records import Claim, Progress
from core.stopping import StopReason, StopToken
from infrastructure.checkpoint_manager import CheckpointManager
from infrastructure.handler_call import call_handler, describe
from infrastructure.progress_writer import ProgressWriter
from infrastructure.task_repository import TaskRepository
from infrastructure.telemetry.context import bound_to


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerParts:
    """What handlers are run with.

    Items of a phase are saved about every ``item_flush_seconds``, progress at most every ``progress_seconds``; 0 saves
    each one at once.
    """

    handlers: HandlerRegistry
    checkpoints: CheckpointStore
    work_root: Path
    services: Mapping[str, Any]
    item_flush_seconds: float = 1.0
    progress_seconds: float = 0.5


def run_claimed(
    claim: Claim, parts: HandlerParts, stop: StopToken, *, progressed: Callable[[Progress], None] | None = None
) -> Execution:
    """Run a claimed task's handler here, with a context of its own.

    Args:
        claim: the task and the right to run it.
        parts: what handlers are run with.
        stop: asks the handler to stop.
        progressed: also told of the progress.

    Raises:
        ClaimLost: when another attempt owns the task.
    """
    task = claim.task
    checkpoint = CheckpointManager(claim, parts.checkpoints, stop, item_flush_seconds=parts.item_flush_seconds)
    writer = ProgressWriter(claim, parts.checkpoints, interval=parts.progress_seconds)

    def save_progress(progress: Progress) -> None:
        if progressed is not None:
            progressed(progress)
        writer(progress)

    context = DockerTaskContext(
        task_id=task.task_id,
        job_id=task.job_id,
        job_type=task.job_type,
        task_type=task.task_type,
        stage=task.stage,
        attempt=claim.attempt,
        worker_id=claim.worker_id,
        checkpoint=checkpoint,
        stop=stop,
        progress_sink=save_progress,
        work_root=parts.work_root,
        services=parts.services,
        previous_error=task.error_details,
        task_repo=TaskRepository(task.task_id, checkpoint),
    )
    try:
        spec = parts.handlers[task.task_type]
    except UnknownTaskType as error:
        return Raised(error=describe(error))
    with bound_to(claim), checkpoint:
        try:
            return call_handler(spec, task.parameters, context)
        finally:
            writer.close()


class InlineExecutor:
    """The TaskExecutor port in the calling thread. Deadlines ask the handler to stop; they cannot end it."""

    def __init__(self, parts: HandlerParts) -> None:
        self._parts = parts

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        """Run the handler in this thread."""
        if deadline is None:
            return run_claimed(claim, self._parts, stop)
        seconds = max(0.0, (deadline - datetime.now(UTC)).total_seconds())
        timer = threading.Timer(seconds, stop.request, [StopReason.TIMEOUT])
        timer.daemon = True
        timer.start()
        try:
            return run_claimed(claim, self._parts, stop)
        finally:
            timer.cancel()

    def close(self) -> None:
        """Nothing to let go of."""
