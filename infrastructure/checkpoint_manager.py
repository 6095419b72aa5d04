"""CheckpointManager: what a running task has finished, saved so that a later attempt goes on where it stopped.

Completed *phases* and a *cursor* within the running phase are kept apart: a save in mid-phase never makes resume skip
the rest of it. Phases may also record finished *items* (tiles, batches) in bulk. What a phase produced on disk is
recorded with size and SHA-256 and verified when a later attempt loads the checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from core.docker_context import ArtifactCheck
from core.errors import Fault, InvalidInput, TransientError
from core.ports import CheckpointStore
from core.records import Checkpoint, Claim
from core.stopping import StopReason, StopToken

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_CHUNK = 1 << 20


class ShutdownEvent(Protocol):
    """What :meth:`CheckpointManager.set_shutdown_event` takes: a ``threading.Event`` or a stop token."""

    def is_set(self) -> bool: ...


class ArtifactInvalid(TransientError):
    """What a phase says it produced is not there or not whole; nothing was saved."""


class CheckpointManager:
    """The checkpoint of one execution. Loaded when first asked for; every write is fenced by the claim.

    All methods that write raise :class:`~core.errors.ClaimLost` when another attempt owns the task.
    """

    def __init__(
        self, claim: Claim, store: CheckpointStore, stop: StopToken, *, item_flush_seconds: float = 1.0
    ) -> None:
        self._claim = claim
        self._store = store
        self._stop = stop
        self._shutdown_event: ShutdownEvent | None = None
        self._item_flush_seconds = item_flush_seconds
        self._loaded: Checkpoint | None = None
        self._items: dict[int, BufferedItemLog] = {}

    @property
    def _checkpoint(self) -> Checkpoint:
        if self._loaded is None:
            self._loaded = _verified(self._store.load_checkpoint(self._claim))
        return self._loaded

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
        artifacts: Iterable[Path] = (),
    ) -> None:
        """Record ``phase`` as complete, merge ``data``, and forget the cursor.

        Raises:
            ArtifactInvalid: when ``validate_artifact`` says no or an artifact is missing; nothing is saved.
            InvalidInput: when an earlier phase is saved after a later one.
        """
        before = self._checkpoint
        if phase < max(1, before.phase):
            raise InvalidInput(
                "checkpoint", [Fault("phase", f"must not go back: phase {before.phase} is already complete", phase)]
            )
        if validate_artifact is not None and not validate_artifact():
            raise ArtifactInvalid(f"the artifact of phase {phase} did not pass its check")
        facts = {str(path): {**_facts(path, phase), "phase": phase} for path in artifacts}
        for log in self._items.values():
            log.flush()
        self._write(
            Checkpoint(
                phase=phase,
                data={**before.data, **(data or {})},
                artifacts={**before.artifacts, **facts},
                schema_version=SCHEMA_VERSION,
            )
        )

    def save_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Record a place within the running phase."""
        self._write(replace(self._checkpoint, cursor=dict(cursor), schema_version=SCHEMA_VERSION))

    def _write(self, checkpoint: Checkpoint) -> None:
        self._store.save_checkpoint(self._claim, checkpoint)
        self._loaded = checkpoint

    def items(self, phase: int) -> BufferedItemLog:
        """The finished items of ``phase``."""
        if phase not in self._items:
            done = dict(self._store.load_items(self._claim, phase))
            self._items[phase] = BufferedItemLog(
                self._claim, self._store, phase, done=done, flush_seconds=self._item_flush_seconds
            )
        return self._items[phase]

    def flush(self) -> None:
        """Save items that are still buffered."""
        for log in self._items.values():
            log.flush()

    def set_shutdown_event(self, event: ShutdownEvent) -> None:
        """Also listen to ``event``."""
        self._shutdown_event = event

    def is_shutdown_requested(self) -> bool:
        """Whether this task was asked to stop."""
        if self._shutdown_event is not None and self._shutdown_event.is_set():
            self._stop.request(StopReason.DRAIN)
        return self._stop.requested

    def should_stop(self) -> bool:
        """The same as :meth:`is_shutdown_requested`."""
        return self.is_shutdown_requested()

    def save_and_stop_if_requested(self, phase: int, data: Mapping[str, Any] | None = None) -> bool:
        """Save ``phase``, then say whether the task was asked to stop."""
        self.save(phase, data)
        return self.should_stop()

    def reset(self) -> None:
        """Forget everything saved: the task starts over."""
        self._store.clear_checkpoint(self._claim)
        self._loaded = Checkpoint(schema_version=SCHEMA_VERSION)
        self._items.clear()


class BufferedItemLog:
    """Finished items of one phase, written in bulk about once a second. Thread-safe."""

    def __init__(
        self,
        claim: Claim,
        store: CheckpointStore,
        phase: int,
        *,
        done: dict[str, Mapping[str, Any]],
        flush_seconds: float,
        flush_items: int = 1000,
    ) -> None:
        self._claim = claim
        self._store = store
        self._phase = phase
        self._done = done
        self._buffer: dict[str, Mapping[str, Any]] = {}
        self._flush_seconds = flush_seconds
        self._flush_items = flush_items
        self._last_flush = time.monotonic()
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __len__(self) -> int:
        return len(self._done)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was recorded for a finished item, or None."""
        return self._done.get(key)

    def items(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """All finished items with what was recorded."""
        return list(self._done.items())

    def mark(self, key: str, data: Mapping[str, Any] | None = None) -> None:
        """Record an item as finished."""
        with self._lock:
            self._done[key] = self._buffer[key] = dict(data or {})
            due = len(self._buffer) >= self._flush_items or time.monotonic() - self._last_flush >= self._flush_seconds
        if due:
            self.flush()

    def flush(self) -> None:
        """Save what is buffered, now."""
        with self._lock:
            if self._buffer:
                self._store.save_items(self._claim, self._phase, self._buffer)
                self._buffer = {}
            self._last_flush = time.monotonic()


def _facts(path: Path, phase: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return {"size": file.tell(), "sha256": digest.hexdigest()}
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
            found = _facts(Path(name), phase)
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
