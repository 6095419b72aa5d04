"""The grains of a replay: what failed, everything from a stage on, or tasks from a checkpoint on."""

from __future__ import annotations

from core.errors import Conflict, Fault, InvalidInput


def check_grain(from_stage: int | None, from_checkpoint: int | None) -> None:
    """Refuse a replay that names two grains, or a phase below zero.

    Raises:
        InvalidInput: naming the field.
    """
    if from_stage is not None and from_checkpoint is not None:
        raise InvalidInput(
            "replay", [Fault("from_checkpoint", "cannot be given together with from_stage", from_checkpoint)]
        )
    if from_checkpoint is not None and from_checkpoint < 0:
        raise InvalidInput("replay", [Fault("from_checkpoint", "must be 0 or more", from_checkpoint)])


def no_such_checkpoint(job_id: str, phase: int, furthest: int) -> Conflict:
    """Why no task of a job can start again at ``phase``."""
    saved = f"the furthest that a task to run again has saved is phase {furthest}" if furthest else "no task saved any"
    return Conflict(f"job {job_id} has no checkpoint of phase {phase}: {saved}")
