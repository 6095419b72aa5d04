"""One handler, run here and now without a database: ``geoworker run-handler``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_never

from app.raster_limits import raster_limits
from app.settings import Settings
from app.storage import storage_spec
from core.ports import Raised, Returned, Stopped
from core.records import Checkpoint, Claim, Progress, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopToken
from infrastructure.inline_executor import HandlerParts, run_claimed
from infrastructure.storage.handler_storage import HandlerStorage
from infrastructure.storage.signatures import lifted
from services.registry import handler_registry


class _ForgetfulCheckpoints:
    """Checkpoints of a run that nothing will resume."""

    def load_checkpoint(self, claim: Claim) -> Checkpoint:  # noqa: ARG002 - the port's signature, here and below
        return Checkpoint()

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Nothing is kept."""

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:  # noqa: ARG002
        return {}

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Nothing is kept."""

    def clear_checkpoint(self, claim: Claim) -> None:
        """Nothing was kept."""

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        """Nobody watches."""


def run_one(
    settings: Settings, task_type: str, parameters: Mapping[str, Any], output_dir: Path | None
) -> tuple[bool, Mapping[str, Any]]:
    """Run the handler; returns whether it succeeded, and its result or its error.

    Raises:
        UnknownTaskType: when no such handler is registered.
    """
    handlers = handler_registry()
    spec = handlers[task_type]
    parameters, signed = lifted(parameters)
    storage = HandlerStorage(replace(storage_spec(settings, local=True), lent_urls=signed))
    services = {
        "output_dir": output_dir.resolve() if output_dir is not None else settings.output_dir,
        "output_address": settings.output_url if output_dir is None else None,
        "storage": storage,
        "h3_grid_store": _grid_store(),
        **raster_limits(settings),
    }
    task = TaskRecord(
        task_id="run-handler",
        job_id="run-handler",
        job_type="run_handler",
        task_type=spec.task_type,
        stage=1,
        task_index=0,
        runs_on=RunsOn.DOCKER,
        status=TaskStatus.PROCESSING,
        parameters=parameters,
        attempt=1,
    )
    claim = Claim(task=task, attempt=1, worker_id=settings.worker_id, lease=timedelta(hours=24))
    with tempfile.TemporaryDirectory(prefix="geoworker-") as work_root:
        parts = HandlerParts(
            handlers=handlers, checkpoints=_ForgetfulCheckpoints(), work_root=Path(work_root), services=services
        )
        execution = run_claimed(claim, parts, StopToken())
    storage.close()
    match execution:
        case Returned(result=result):
            return True, result
        case Raised(error=error):
            return False, {"success": False, "error": error.as_dict()}
        case Stopped(detail=detail):
            return False, {"success": False, "error": {"type": "Stopped", "message": detail}}
        case _:
            assert_never(execution)


def _grid_store() -> object:
    from services.h3.memory_store import InMemoryGridStore

    return InMemoryGridStore()
