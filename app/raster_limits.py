"""What raster handlers are told of the limits of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.settings import Settings
from infrastructure.watchdogs import MemoryWatch

_SHARE = 4
_MOST = 2 << 30
_UNKNOWN_LIMIT = 4 << 30


def raster_limits(settings: Settings) -> Mapping[str, Any]:
    """Services by name: ``memory_budget_bytes`` of one task, and ``raster_tiling_threshold_mb``.

    The budget is a quarter of the memory that this process's container may use, 2 GiB at most, shared by the tasks
    that run at a time; ``RASTER_MEMORY_MB`` sets it outright.
    """
    if settings.raster_memory_mb is not None:
        budget = settings.raster_memory_mb << 20
    else:
        limit = MemoryWatch().limit or _UNKNOWN_LIMIT
        budget = min(_MOST, limit // _SHARE) // settings.worker_concurrency
    return {"memory_budget_bytes": budget, "raster_tiling_threshold_mb": settings.raster_tiling_threshold_mb}
