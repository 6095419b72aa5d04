"""The real process (HTTP, loops, lifecycle) with the chaos jobs.

``python chaos_service.py <database url> <directory> [OTLP endpoint]``. Prints its address when it serves.
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
from app.logs import configure_logging
from app.server import bind, run_server
from app.settings import Settings

GRACE = 1.5


def main(url: str, root: str, otlp_endpoint: str | None = None) -> None:
    composition.job_registry = lambda: chaos_worker.JOBS
    composition.handler_registry = lambda: chaos_worker.HANDLERS
    child.BOOTSTRAP = "chaos_worker:parts"

    def arguments(settings: Settings, conninfo: str) -> Mapping[str, Any]:
        return {"url": conninfo, "root": str(settings.work_root)}

    child.arguments = arguments
    settings = Settings.from_env(
        {},
        data_dir=Path(root),
        shutdown_grace_seconds=GRACE,
        lease_seconds=2.0,
        heartbeat_seconds=0.5,
        sweep_seconds=0.3,
        hint_seconds=1.0,
        retry_base_seconds=0.01,
        retry_cap_seconds=0.05,
        log_format="json",
        otel_exporter_otlp_endpoint=otlp_endpoint,
    )
    configure_logging(settings)
    application = composition.compose(settings, composition.Role.EMBEDDED, database_url=url)
    listener = bind("127.0.0.1", 0)
    run_server(create_app(application), application, listener, ready=lambda address: print(address, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
