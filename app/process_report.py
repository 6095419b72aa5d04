"""What a process says of itself to the others: role, mode, version, what its loops do, memory and pool."""

from __future__ import annotations

import os
import socket
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infrastructure.postgres.worker_store import WorkerReport

if TYPE_CHECKING:
    from app.composition import Application


def version() -> str:
    """The installed version."""
    try:
        return metadata.version("geoworker")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def process_report(application: Application) -> WorkerReport:
    """The report of this process, now."""
    relay = application.relay.status
    return WorkerReport(
        worker_id=application.settings.worker_id,
        role=application.role.label,
        mode=str(application.settings.docker_orchestration_mode),
        version=version(),
        state=str(application.lifecycle.state),
        facts={
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "loops": {name: worker.status() for name, worker in application.workers.items()},
            "memory": _memory(application),
            "children": application.children.status()["children"] if application.children is not None else [],
            "pool": application.pool.status(),
            "relay": {"sent": relay.sent, "failed": relay.failed, "given_up": relay.given_up},
        },
    )


def _memory(application: Application) -> dict[str, Any]:
    reading = application.memory.read()
    return {
        "resident_bytes": _resident_bytes(),
        "used_bytes": reading.used if reading is not None else None,
        "limit_bytes": reading.limit if reading is not None else None,
    }


def _resident_bytes() -> int | None:
    """This process's resident memory, where the kernel tells (proc_pid_statm(5): the second field, in pages)."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
