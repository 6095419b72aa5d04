"""CheckpointManager: what a running task has finished, saved so that a later attempt goes on where it stopped.

Completed *phases* and a *cursor* within the running phase are kept apart: a save in mid-phase never makes resume skip
the rest of it. Phases may also record finished *items* (tiles, batches) in bulk. What a phase produced on disk is
recorded with size and SHA-256 and verified when a later attempt loads the checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, overload

from core.docker_context import ArtifactCheck
from core.errors import Fault, InvalidInput, StoreUnavailable, TransientError
from core.ports import CheckpointStore
from core.records import Checkpoint, Claim
from core.stopping import StopReason, StopToken
from infrastructure.item_log import BufferedItemLog
from infrastructure.task_repository import TaskRepository

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1


class ShutdownEvent(Protocol):
    """What :meth:`CheckpointManager.set_shutdown_event` takes: a ``threading.Event`` or a stop token."""

    def is_set(self) -> bool: ...


class ArtifactInvalid(TransientError):
    """What a phase says it produced is not there or not whole; nothing was saved."""


@dataclass(slots=True)
class _State:
    """What one execution knows of its checkpoint."""

    claim: Claim
    store: CheckpointStore
    stop: StopToken
    item_flush_seconds: float
    loaded: Checkpoint | None = None
    items: dict[int, BufferedItemLog] = field(default_factory=dict)
    shutdown_event: ShutdownEvent | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


class CheckpointManager:
    """The checkpoint of one execution. Loaded when first asked for; every write is fenced by the claim.

    ``CheckpointManager(task_id, task_repo)``, with ``context.task_repo``, is how handlers of the older kind make one:
    it is another name for ``context.checkpoint``. The worker makes it from the claim, the store and the stop token.

    Thread-safe. All methods that write raise :class:`~core.errors.ClaimLost` when another attempt owns the task.
    """

    @overload
    def __init__(self, task: str, store: TaskRepository) -> None: ...

    @overload
    def __init__(
        self, task: Claim, store: CheckpointStore, stop: StopToken, *, item_flush_seconds: float = 1.0
    ) -> None: ...

    def __init__(
        self,
        task: str | Claim,
        store: TaskRepository | CheckpointStore,
        stop: StopToken | None = None,
        *,
        item_flush_seconds: float = 1.0,
    ) -> None:
        self._state: _State
        if isinstance(task, str) and isinstance(store, TaskRepository):
            self._state = store.checkpoint_of(task)._state
        elif isinstance(task, Claim) and not isinstance(store, TaskRepository):
            self._state = _State(task, store, stop or StopToken(), item_flush_seconds)
        else:
            raise InvalidInput(
                "CheckpointManager",
                [Fault("task_repo", "must be context.task_repo for a task id", type(store).__name__)],
            )

    @property
    def _checkpoint(self) -> Checkpoint:
        state = self._state
        with state.lock:
            if state.loaded is None:
                stored = state.store.load_checkpoint(state.claim)
                verified = _verified(stored)
                if verified != stored:
                    self._roll_back(verified)
                state.loaded = verified
            return state.loaded

    def _roll_back(self, to: Checkpoint) -> None:
        """Forget what was saved after phase ``to.phase``, items included. Dying half-way forgets more, never less."""
        kept = {phase: dict(self._state.store.load_items(self._state.claim, phase)) for phase in range(1, to.phase + 1)}
        self._state.store.clear_checkpoint(self._state.claim)
        self._state.store.save_checkpoint(self._state.claim, to)
        for phase, items in kept.items():
            if items:
                self._state.store.save_items(self._state.claim, phase, items)

    @property
    def phase(self) -> int:
        """The highest completed phase; 0 when none is."""
        return self._checkpoint.phase

    @property
    def data(self) -> Mapping[str, Any]:
        """Everything the completed phases saved."""
        return self._checkpoint.data

    @property
    def cursor(self) -> Mapping[str, Any] | None:
        """The place within the running phase that was saved last."""
        return self._checkpoint.cursor

    def should_skip(self, phase: int) -> bool:
        """Whether ``phase`` is complete and what it left is still there and whole."""
        return phase <= self._checkpoint.phase

    def get_data(self, key: str, default: Any = None) -> Any:
        """What a phase saved under ``key``."""
        return self._checkpoint.data.get(key, default)

    def save(
        self,
        phase: int,
        data: Mapping[str, Any] | None = None,
        validate_artifact: ArtifactCheck | None = None,
        *,
        artifacts: Iterable[Path | str] = (),
    ) -> None:
        """Record ``phase`` as complete, merge ``data``, and forget the cursor.

        Raises:
            ArtifactInvalid: when ``validate_artifact`` says no or an artifact is missing; nothing is saved.
            InvalidInput: when an earlier phase is saved after a later one.
        """
        with self._state.lock:
            self._save(phase, data or {}, validate_artifact, artifacts)

    def _save(
        self,
        phase: int,
        data: Mapping[str, Any],
        validate_artifact: ArtifactCheck | None,
        artifacts: Iterable[Path | str],
    ) -> None:
        before = self._checkpoint
        if phase < max(1, before.phase):
            raise InvalidInput(
                "checkpoint", [Fault("phase", f"must not go back: phase {before.phase} is already complete", phase)]
            )
        if validate_artifact is not None and not validate_artifact():
            raise ArtifactInvalid(f"the artifact of phase {phase} did not pass its check")
        facts = {str(path): {**_facts(Path(path), phase), "phase": phase} for path in artifacts}
        self.flush()
        self._write(
            Checkpoint(
                phase=phase,
                data={**before.data, **data},
                artifacts={**before.artifacts, **facts},
                schema_version=SCHEMA_VERSION,
            )
        )

    def save_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Record a place within the running phase."""
        with self._state.lock:
            self._write(replace(self._checkpoint, cursor=dict(cursor), schema_version=SCHEMA_VERSION))

    def _write(self, checkpoint: Checkpoint) -> None:
        self._state.store.save_checkpoint(self._state.claim, checkpoint)
        self._state.loaded = checkpoint

    def items(self, phase: int) -> BufferedItemLog:
        """The finished items of ``phase``; the same log for every thread that asks."""
        state = self._state
        with state.lock:
            if phase not in state.items:
                _ = self._checkpoint  # loading may find that this phase must be done again
                done = dict(state.store.load_items(state.claim, phase))
                state.items[phase] = BufferedItemLog(
                    state.claim, state.store, phase, done=done, flush_seconds=state.item_flush_seconds
                )
            return state.items[phase]

    def flush(self) -> None:
        """Save items that are still buffered."""
        for log in list(self._state.items.values()):
            log.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Save what is buffered. When the store is away the items since the last save are done again."""
        for log in self._state.items.values():
            try:
                log.close()
            except StoreUnavailable as fault:
                logger.warning("finished items were not saved: %s", fault, extra={"action": "checkpoint.unsaved"})

    def set_shutdown_event(self, event: ShutdownEvent) -> None:
        """Also listen to ``event``."""
        self._state.shutdown_event = event

    def is_shutdown_requested(self) -> bool:
        """Whether this task was asked to stop."""
        if self._state.shutdown_event is not None and self._state.shutdown_event.is_set():
            self._state.stop.request(StopReason.DRAIN)
        return self._state.stop.requested

    def should_stop(self) -> bool:
        """The same as :meth:`is_shutdown_requested`."""
        return self.is_shutdown_requested()

    def save_and_stop_if_requested(self, phase: int, data: Mapping[str, Any] | None = None) -> bool:
        """Save ``phase``, then say whether the task was asked to stop."""
        self.save(phase, data)
        return self.should_stop()

    def reset(self) -> None:
        """Forget everything saved: the task starts over."""
        for log in self._state.items.values():
            log.discard()
        self._state.items.clear()
        self._state.store.clear_checkpoint(self._state.claim)
        self._state.loaded = Checkpoint(schema_version=SCHEMA_VERSION)


def _facts(path: Path, phase: int, *, expected_size: int | None = None) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if expected_size is not None and size != expected_size:
            return {"size": size, "sha256": None}
        with path.open("rb") as file:
            return {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise ArtifactInvalid(f"the artifact {path} of phase {phase} cannot be read: {error}") from error


def _verified(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint up to the last phase whose artifacts are still there and whole."""
    if checkpoint.schema_version != SCHEMA_VERSION:
        logger.warning(
            "checkpoint of schema version %s is not understood; the task starts over", checkpoint.schema_version
        )
        return Checkpoint(schema_version=SCHEMA_VERSION)
    for name, facts in sorted(checkpoint.artifacts.items(), key=lambda item: item[1]["phase"]):
        phase = int(facts["phase"])
        try:
            found = _facts(Path(name), phase, expected_size=facts["size"])
        except ArtifactInvalid as error:
            problem = str(error)
        else:
            if found == {"size": facts["size"], "sha256": facts["sha256"]}:
                continue
            problem = f"{name} has changed since phase {phase} saved it"
        logger.warning("phase %d is done again: %s", phase, problem, extra={"action": "checkpoint.invalid"})
        kept = {path: known for path, known in checkpoint.artifacts.items() if known["phase"] < phase}
        return replace(checkpoint, phase=phase - 1, cursor=None, artifacts=kept)
    return checkpoint
