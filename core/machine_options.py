"""How the machine treats time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from core.heartbeat import HeartbeatOptions
from core.retry import Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """How the machine treats time. ``record_patience`` is how long it goes on trying to record an ended task."""

    worker_id: str
    lease: timedelta = timedelta(seconds=60)
    heartbeat: HeartbeatOptions = field(default_factory=HeartbeatOptions)
    backoff: Backoff = field(default_factory=Backoff)
    record_patience: timedelta = timedelta(minutes=15)
    store_retry: timedelta = timedelta(seconds=5)
    task_timeout: timedelta | None = None  # of tasks that name none and whose handler has none
