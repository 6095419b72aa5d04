"""What a child process runs handlers with: its own database connection, wired from the parent's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.settings import Settings
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.inline_executor import HandlerParts
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database
from infrastructure.postgres.h3_store import PostgresGridStore
from services.h3.ports import STORE
from services.registry import handler_registry

BOOTSTRAP = "app.child:parts"


def arguments(settings: Settings, conninfo: str) -> Mapping[str, Any]:
    """What the parent tells its children; travels on a private socket."""
    return {
        "conninfo": conninfo,
        "entra": settings.database_entra_auth,
        "work_root": str(settings.work_root),
        "services": {name: str(value) for name, value in plain_services(settings).items()},
    }


def plain_services(settings: Settings) -> Mapping[str, Any]:
    """What handlers are offered by name (``context.services``) in every process."""
    return {"output_dir": settings.output_dir}


def with_stores(services: Mapping[str, Any], database: Database) -> Mapping[str, Any]:
    """The same, and what needs a database."""
    return {**services, STORE: PostgresGridStore(database)}


@contextmanager
def parts(told: Mapping[str, Any]) -> Iterator[HandlerParts]:
    """The parts of one child process, for as long as it lives."""
    password = None
    if told["entra"]:
        from infrastructure.credentials import entra_database_password

        password = entra_database_password()
    pool = ConnectionPoolManager(
        told["conninfo"],
        PoolSettings(min_size=1, max_size=2, application_name="geoworker child"),
        password=password,
    )
    database = Database(pool)
    try:
        yield HandlerParts(
            handlers=handler_registry(),
            checkpoints=PostgresCheckpointStore(database),
            work_root=Path(told["work_root"]),
            services=with_stores({name: Path(value) for name, value in told["services"].items()}, database),
        )
    finally:
        pool.close()
