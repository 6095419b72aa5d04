"""The processes: everything in one on an embedded PostgreSQL (demo, dev), or a worker or orchestrator of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from app.api.application import create_app
from app.cli_show import print_job, watch
from app.composition import compose
from app.logs import configure_logging
from app.migrating import migrate_when_reachable
from app.role import Role
from app.server import bind, run_server
from app.session import database_address
from app.settings import Settings
from app.views import job_status_view
from core.states import TERMINAL_JOB_STATUSES
from infrastructure.postgres.migrations import migrate

logger = logging.getLogger(__name__)


def run_demo(settings: Settings, console: Console, *, source: Path | None, force: bool) -> Mapping[str, Any]:
    """Submit ``process_raster_docker`` on a real raster, show its progress and print what it made."""
    from services.raster import sample_raster

    configure_logging(settings)
    raster = (source or sample_raster()).resolve()
    began = time.perf_counter()
    with database_address(settings) as address:
        application = compose(settings, Role.EMBEDDED, database_url=address)
        try:
            migrate(application.database)
            console.print(f"PostgreSQL ready in {time.perf_counter() - began:.1f} s: {settings.data_dir}/postgres")
            application.lifecycle.start()
            submitted = application.machine.submit_job(
                "process_raster_docker", {"source_url": str(raster)}, rerun=force, submitted_by="demo"
            )
            job = submitted.job
            if not submitted.created and job.status in TERMINAL_JOB_STATUSES:
                console.print("This job is known: answered from state. Use --force to run it again.")
                view: Mapping[str, Any] = job_status_view(application.store, job)
            else:
                view = watch(application.store, job.job_id, console)
            print_job(view, console)
            return view
        finally:
            application.lifecycle.drain()


def run_dev(settings: Settings, console: Console) -> None:
    """Serve the API and work in one process until SIGTERM or Ctrl-C.

    Raises:
        ConfigurationError: when it would listen beyond loopback without authentication.
    """
    configure_logging(settings)
    settings.require_authentication()
    listener = bind(settings.host, settings.port)
    with database_address(settings) as address:
        application = compose(settings, Role.EMBEDDED, database_url=address)
        migrate(application.database)

        def ready(url: str) -> None:
            console.print(f"geoworker dev listens on {url}  (Ctrl-C stops it)", highlight=False)
            console.print(
                f"  data in {settings.data_dir.resolve()}; dashboard at {url}/, API described at {url}/openapi.json",
                highlight=False,
            )

        run_server(create_app(application), application, listener, ready=ready)


def run_process(settings: Settings, role: Role, console: Console) -> None:
    """Serve one role of its own, a worker or an orchestrator, until SIGTERM.

    Raises:
        ConfigurationError: when settings are missing, or it would listen beyond loopback without authentication.
    """
    configure_logging(settings)
    settings.require_authentication()
    application = compose(settings, role)
    listener = bind(settings.host, settings.port)
    migrate_when_reachable(application)

    def ready(url: str) -> None:
        name = "worker" if role is Role.WORKER else "orchestrator"
        console.print(f"geoworker {name} listens on {url} ({settings.docker_orchestration_mode})", highlight=False)

    run_server(create_app(application), application, listener, ready=ready)
