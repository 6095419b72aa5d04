"""Faults to inject into a run: each fires once, at a place that is the same in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from core.errors import TransientError
from core.messages import Channel, Message
from core.ports import Execution, TaskExecutor
from core.records import Checkpoint, Claim, Progress
from core.stopping import StopReason, StopToken
from testing.mock_state_manager import MockStateManager


class WorkerCrashed(BaseException):
    """The worker's process is gone: nothing more of the execution is recorded, and its message is not settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailAtCheckpoint:
    """The ``number``-th save of a task's checkpoint (counted over its attempts) raises ``error`` and saves nothing."""

    number: int = 1
    task_type: str | None = None
    error: Exception = field(default_factory=lambda: TransientError("injected: the checkpoint could not be saved"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashAtCheckpoint:
    """The worker is killed right after the ``number``-th save of a task's checkpoint."""

    number: int = 1
    task_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashAtItem:
    """The worker is killed right after the ``number``-th finished item of a task is saved (counted over attempts).

    With faults each item is saved as soon as it is marked, so that the place is the same in every run.
    """

    number: int = 1
    task_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseLeaseAtCheckpoint:
    """At the ``number``-th save the lease has run out and the task is queued for somebody else."""

    number: int = 1
    task_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAtPhase:
    """The task is asked to stop as soon as ``phase`` is saved."""

    phase: int = 1
    task_type: str | None = None
    reason: StopReason = StopReason.DRAIN

    def __post_init__(self) -> None:
        _check_reason(self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAtProgress:
    """The task is asked to stop once it reports at least ``percent``. With faults no report is held back."""

    percent: float = 0.0
    task_type: str | None = None
    reason: StopReason = StopReason.DRAIN

    def __post_init__(self) -> None:
        _check_reason(self.reason)


def _check_reason(reason: object) -> None:
    if not isinstance(reason, StopReason):
        allowed = ", ".join(f"StopReason.{known.name}" for known in StopReason)
        raise TypeError(f"reason: must be one of {allowed} (from core.stopping); {reason!r} was given")


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateMessages:
    """The first ``first`` messages are delivered twice; all of them by default."""

    first: int = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseMessages:
    """The first ``first`` messages are never delivered."""

    first: int = 1


Fault = (
    FailAtCheckpoint
    | CrashAtCheckpoint
    | CrashAtItem
    | LoseLeaseAtCheckpoint
    | StopAtPhase
    | StopAtProgress
    | DuplicateMessages
    | LoseMessages
)


class FaultyNetwork:
    """Loses and doubles messages."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._duplicate = sum(fault.first for fault in faults if isinstance(fault, DuplicateMessages))
        self._lose = sum(fault.first for fault in faults if isinstance(fault, LoseMessages))
        self._sent = 0

    def copies(self, channel: Channel, message: Message) -> int:  # noqa: ARG002 - faults may come to look at them
        """0 when the message is lost, 2 when it is doubled."""
        self._sent += 1
        if self._sent <= self._lose:
            return 0
        return 2 if self._sent - self._lose <= self._duplicate else 1


class FaultyCheckpoints:
    """The CheckpointStore port over a store, with faults at the saves."""

    def __init__(self, state: MockStateManager, faults: Sequence[Fault]) -> None:
        self._state = state
        self._waiting = list(faults)
        self._saves: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._stops: dict[str, StopToken] = {}
        self.crashed: set[tuple[str, int]] = set()

    @property
    def unfired(self) -> list[Fault]:
        """The faults at a place in a task that has not been reached."""
        return [fault for fault in self._waiting if not isinstance(fault, DuplicateMessages | LoseMessages)]

    def running(self, claim: Claim, stop: StopToken) -> None:
        """An execution of the task begins."""
        self._stops[claim.task_id] = stop

    def load_checkpoint(self, claim: Claim) -> Checkpoint:
        return self._state.load_checkpoint(claim)

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        self._check(claim)
        number = self._saves[claim.task_id] = self._saves.get(claim.task_id, 0) + 1
        fault = self._due(claim, number, checkpoint.phase)
        match fault:
            case FailAtCheckpoint(error=error):
                raise error
            case LoseLeaseAtCheckpoint():
                self._state.advance(claim.lease + timedelta(seconds=1))
                self._state.sweep(limit=1000)
        self._state.save_checkpoint(claim, checkpoint)
        match fault:
            case CrashAtCheckpoint():
                self.crashed.add((claim.task_id, claim.attempt))
                self._check(claim)
            case StopAtPhase(reason=reason):
                self._stops[claim.task_id].request(reason)

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:
        return self._state.load_items(claim, phase)

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        self._check(claim)
        self._state.save_items(claim, phase, items)
        saved = self._items[claim.task_id] = self._items.get(claim.task_id, 0) + len(items)
        for fault in self._waiting:
            match fault:
                case CrashAtItem(number=number) if saved >= number and _meant(fault, claim):
                    self._waiting.remove(fault)
                    self.crashed.add((claim.task_id, claim.attempt))
                    self._check(claim)

    def clear_checkpoint(self, claim: Claim) -> None:
        self._check(claim)
        self._state.clear_checkpoint(claim)

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        self._check(claim)
        self._state.save_progress(claim, progress)
        for fault in self._waiting:
            match fault:
                case StopAtProgress(percent=percent) if progress.percent >= percent and _meant(fault, claim):
                    self._waiting.remove(fault)
                    self._stops[claim.task_id].request(fault.reason)
                    return

    def _check(self, claim: Claim) -> None:
        if (claim.task_id, claim.attempt) in self.crashed:
            raise WorkerCrashed

    def _due(self, claim: Claim, number: int, phase: int) -> Fault | None:
        for fault in self._waiting:
            match fault:
                case FailAtCheckpoint() | CrashAtCheckpoint() | LoseLeaseAtCheckpoint():
                    due = fault.number == number
                case StopAtPhase():
                    due = fault.phase == phase
                case CrashAtItem() | StopAtProgress() | DuplicateMessages() | LoseMessages():
                    continue
            if due and _meant(fault, claim):
                self._waiting.remove(fault)
                return fault
        return None


def _meant(
    fault: FailAtCheckpoint | CrashAtCheckpoint | CrashAtItem | LoseLeaseAtCheckpoint | StopAtPhase | StopAtProgress,
    claim: Claim,
) -> bool:
    return fault.task_type in (None, claim.task.task_type)


class CrashingExecutor:
    """The TaskExecutor port over another; raises WorkerCrashed out of an execution whose worker was killed."""

    def __init__(self, inner: TaskExecutor, checkpoints: FaultyCheckpoints) -> None:
        self._inner = inner
        self._checkpoints = checkpoints

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        self._checkpoints.running(claim, stop)
        execution = self._inner.execute(claim, stop=stop, deadline=deadline)
        if (claim.task_id, claim.attempt) in self._checkpoints.crashed:
            raise WorkerCrashed
        return execution

    def close(self) -> None:
        self._inner.close()
