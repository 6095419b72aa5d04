"""The finished items of one phase, written in bulk about once a second."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import ClaimLost, StoreUnavailable
from core.ports import CheckpointStore
from core.records import Claim

logger = logging.getLogger(__name__)

_FLUSH_ITEMS = 1000
_PATIENCE_SECONDS = 120.0


class BufferedItemLog:
    """Finished items of one phase. Thread-safe.

    An item is saved at the latest ``flush_seconds`` after it was marked, even when the next one takes long. While the
    store is away items stay in the buffer; after two minutes of that :meth:`mark` raises.
    """

    def __init__(
        self,
        claim: Claim,
        store: CheckpointStore,
        phase: int,
        *,
        done: dict[str, Mapping[str, Any]],
        flush_seconds: float = 1.0,
    ) -> None:
        self._claim = claim
        self._store = store
        self._phase = phase
        self._done = done
        self._buffer: dict[str, Mapping[str, Any]] = {}
        self._flush_seconds = flush_seconds
        self._last_flush = time.monotonic()
        self._unsaved_since: float | None = None
        self._lost: ClaimLost | None = None
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._owner = os.getpid()

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __len__(self) -> int:
        return len(self._done)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was recorded for a finished item, or None."""
        return self._done.get(key)

    def items(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """All finished items with what was recorded."""
        with self._lock:
            return list(self._done.items())

    def mark(self, key: str, data: Mapping[str, Any] | None = None) -> None:
        """Record an item as finished.

        Raises:
            ClaimLost: when another attempt owns the task.
            StoreUnavailable: when nothing could be saved for two minutes.
            TypeError, ValueError: when ``data`` has no JSON form.
        """
        kept = dict(data or {})
        if kept:
            json.dumps(kept, allow_nan=False)
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._done[key] = self._buffer[key] = kept
            waited = time.monotonic() - self._last_flush
            if len(self._buffer) >= _FLUSH_ITEMS or waited >= self._flush_seconds:
                self._flush_if_possible()
            elif self._timer is None:
                self._arm(self._flush_seconds - waited)

    def flush(self) -> None:
        """Save what is buffered, now.

        Raises:
            ClaimLost: when another attempt owns the task.
            StoreUnavailable: when the store cannot be reached; the items stay buffered.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._last_flush = time.monotonic()
            if self._buffer:
                self._store.save_items(self._claim, self._phase, self._buffer)
                self._buffer = {}
            self._unsaved_since = None

    def discard(self) -> None:
        """Drop what is buffered and end the timer."""
        with self._lock:
            self._buffer = {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def close(self) -> None:
        """Save what is buffered and end the timer. Raises as :meth:`flush`."""
        if os.getpid() != self._owner:
            return  # a fork of the task's process writes nothing in its name
        try:
            self.flush()
        finally:
            self.discard()

    def _flush_if_possible(self) -> None:
        try:
            self.flush()
        except StoreUnavailable as error:
            now = time.monotonic()
            self._unsaved_since = self._unsaved_since or now
            if now - self._unsaved_since >= _PATIENCE_SECONDS:
                raise
            logger.warning("items not saved yet: %s", error, extra={"action": "checkpoint.unsaved"})

    def _arm(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._flush_late)
        self._timer.name = "geoworker-item-log"
        self._timer.daemon = True
        self._timer.start()

    def _flush_late(self) -> None:
        with self._lock:
            if self._timer is None:  # discarded while this thread waited for the lock
                return
            self._timer = None
            try:
                self._flush_if_possible()
                if self._buffer:
                    self._arm(self._flush_seconds)
            except ClaimLost as error:
                self._lost = error
            except Exception:  # the next mark meets the same error and raises it
                logger.exception("items could not be saved", extra={"action": "checkpoint.unsaved"})
