"""What a process says of itself: alive, ready, and in detail."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.composition import Application
from app.lifecycle import LifecycleState
from app.process_report import version
from core.errors import GeoworkerError, StoreUnavailable
from infrastructure.postgres.database import translated


def database_health(application: Application) -> dict[str, Any]:
    """Whether the database answers, and the pool's figures."""
    began = time.perf_counter()
    try:
        with translated():
            application.pool.ping()
    except StoreUnavailable as error:
        return {"reachable": False, "error": str(error), "pool": application.pool.status()}
    return {
        "reachable": True,
        "latency_ms": round((time.perf_counter() - began) * 1000, 2),
        "pool": application.pool.status(),
    }


def dead_because(application: Application) -> str | None:
    """Why this process should be restarted, or None: a worker loop has ended although nobody asked it to.

    Asks nothing of the database: one that is away is no reason to restart.
    """
    if application.lifecycle.is_shutting_down:
        return None
    dead = [name for name, worker in application.workers.items() if worker.started and not worker.healthy]
    return f"not running: {', '.join(dead)}" if dead else None


def not_ready_because(application: Application) -> str | None:
    """Why this process should get no work now, or None."""
    state = application.lifecycle.state
    if state is not LifecycleState.RUNNING:
        return str(state)
    if (dead := dead_because(application)) is not None:
        return dead
    if not database_health(application)["reachable"]:
        return "the database cannot be reached"
    return None


def health(application: Application) -> tuple[int, Mapping[str, Any]]:
    """The status code and body of ``GET /health``."""
    lifecycle = application.lifecycle
    database = database_health(application)
    workers = {name: worker.status() for name, worker in application.workers.items()}
    broken = [name for name, worker in application.workers.items() if worker.started and not worker.healthy]
    if lifecycle.is_shutting_down:
        status = "shutting_down"
    elif not database["reachable"] or broken:
        status = "unhealthy"
    else:
        status = "healthy"
    relay = application.relay.status
    body = {
        "status": status,
        "version": version(),
        "mode": application.settings.docker_orchestration_mode,
        "worker_id": application.settings.worker_id,
        "checked_at": datetime.now(UTC).isoformat(),
        "database": database,
        "background_workers": workers,
        "relay": {
            "sent": relay.sent,
            "failed": relay.failed,
            "given_up": relay.given_up,
            "unmarked": relay.unmarked,
            "last_error": relay.last_error,
            "last_sweep_at": relay.last_sweep_at.isoformat() if relay.last_sweep_at is not None else None,
        },
        "sweeper": _sweeper(application) if database["reachable"] else {"error": "the database cannot be reached"},
    }
    return (200 if status == "healthy" else 503), body


def _sweeper(application: Application) -> dict[str, Any]:
    try:
        status = application.sweep_store.status()
    except GeoworkerError as error:
        return {"error": str(error)}
    return {
        "last_run_at": status.last_run_at.isoformat() if status.last_run_at is not None else None,
        "last_run_by": status.last_run_by,
        "last_report": status.last_report,
        "age_seconds": round(status.age.total_seconds(), 1) if status.age is not None else None,
        "passes": status.passes,
        "last_error": application.sweeper.last_error,
    }
