"""What a child process runs handlers with: its own database connection, wired from the parent's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.raster_limits import raster_limits
from app.settings import Settings
from app.storage import storage_spec
from core.storage import Storage
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.inline_executor import HandlerParts
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database
from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
from services.registry import handler_registry

BOOTSTRAP = "app.child:parts"


def arguments(settings: Settings, conninfo: str) -> Mapping[str, Any]:
    """What the parent tells its children; travels on a private socket."""
    return {
        "conninfo": conninfo,
        "entra": settings.database_entra_auth,
        "work_root": str(settings.work_root),
        "output_dir": str(settings.output_dir),
        "output_url": settings.output_url,
        "storage": storage_spec(settings).as_dict(),
        "raster": dict(raster_limits(settings)),
    }


def handler_services(
    output_dir: Path,
    database: Database,
    storage: Storage,
    output_url: str | None = None,
    *,
    raster: Mapping[str, Any],
) -> Mapping[str, Any]:
    """What handlers are offered by name (``context.services``) in every process with a database."""
    from infrastructure.postgres.h3_store import PostgresGridStore

    return {
        "output_dir": output_dir,
        "output_address": output_url,
        "storage": storage,
        "h3_grid_store": PostgresGridStore(database),
        **raster,
    }


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
    storage = HandlerStorage(StorageSpec.from_dict(told["storage"]))
    try:
        yield HandlerParts(
            handlers=handler_registry(),
            checkpoints=PostgresCheckpointStore(database),
            work_root=Path(told["work_root"]),
            services=handler_services(
                Path(told["output_dir"]), database, storage, told["output_url"], raster=told["raster"]
            ),
        )
    finally:
        storage.close()
        pool.close()
