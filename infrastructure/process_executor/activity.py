"""Tells the worker that a task makes progress whenever the task saves something."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from core.ports import CheckpointStore
from core.records import Checkpoint, Claim, Progress


class ActivityStore:
    """A CheckpointStore that also calls ``notify``, at most once a second, after each write."""

    def __init__(self, store: CheckpointStore, notify: Callable[[], None]) -> None:
        self._store = store
        self._notify = notify
        self._last = 0.0

    def _active(self) -> None:
        now = time.monotonic()
        if now - self._last >= 1.0:
            self._last = now
            self._notify()

    def load_checkpoint(self, claim: Claim) -> Checkpoint:
        """Pass on."""
        return self._store.load_checkpoint(claim)

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:
        """Pass on."""
        return self._store.load_items(claim, phase)

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Pass on, then notify."""
        self._store.save_checkpoint(claim, checkpoint)
        self._active()

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Pass on, then notify."""
        self._store.save_items(claim, phase, items)
        self._active()

    def clear_checkpoint(self, claim: Claim) -> None:
        """Pass on, then notify."""
        self._store.clear_checkpoint(claim)
        self._active()

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        """Notify, then pass on: a task whose progress cannot be saved now still makes progress."""
        self._active()
        self._store.save_progress(claim, progress)
