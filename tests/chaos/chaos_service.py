"""The real process (HTTP, loops, lifecycle) with the chaos jobs and the raster jobs, in any mode and role.

``python chaos_service.py <database url> <directory> [embedded|worker|orchestrator] [NAME=VALUE ...]``, where the last
are settings by their names in the environment. Prints its address when it serves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import chaos_worker

from app import child, composition
from app.api.application import create_app
from app.lifecycle import CLOSING_SECONDS, RECORDING_SECONDS
from app.logs import configure_logging
from app.role import Role
from app.server import bind, run_server
from app.settings import Settings

GRACE = 1.5
LONGEST_STOP = GRACE + RECORDING_SECONDS + CLOSING_SECONDS + 3.0
"""Seconds: what is promised of a stop, and a margin for a busy machine."""
FAST = {
    "SHUTDOWN_GRACE_SECONDS": str(GRACE),
    "LEASE_SECONDS": "2",
    "HEARTBEAT_SECONDS": "0.5",
    "SWEEP_SECONDS": "0.3",
    "HINT_SECONDS": "1",
    "RETRY_BASE_SECONDS": "0.01",
    "RETRY_CAP_SECONDS": "0.05",
    "LOG_FORMAT": "json",
    "PORT": "0",
}


def main(url: str, root: str, role: str = "embedded", *given: str) -> None:
    composition.job_registry = lambda: chaos_worker.JOBS
    composition.handler_registry = lambda: chaos_worker.HANDLERS
    child.BOOTSTRAP = "chaos_worker:parts"

    def arguments(settings: Settings, conninfo: str) -> Mapping[str, Any]:
        return {"url": conninfo, "root": str(settings.work_root), "output_dir": str(settings.output_dir)}

    child.arguments = arguments
    settings = Settings.from_env(FAST | {"DATA_DIR": root} | dict(pair.split("=", 1) for pair in given))
    configure_logging(settings)
    application = composition.compose(settings, Role[role.upper()], database_url=url)
    listener = bind("127.0.0.1", settings.port)
    run_server(create_app(application), application, listener, ready=lambda address: print(address, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
