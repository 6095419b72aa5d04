"""What the command line works on: the state store, embedded or not, without a worker of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from app.composition import database_password
from app.settings import Settings
from core.jobs import JobRegistry
from core.machine import CoreMachine, MachineOptions
from core.ports import Execution, MessagePublisher, StateStore, TaskExecutor
from core.records import Claim, OutboxEntry
from core.stopping import StopToken
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.migrations import migrate
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from services.registry import handler_registry, job_registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The store and a machine that accepts and controls jobs but runs none."""

    settings: Settings
    jobs: JobRegistry
    database: Database
    store: StateStore
    machine: CoreMachine


class _LeaveInOutbox(MessagePublisher):
    """Messages stay in the outbox; the relay of a running process finds them within a second."""

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        """Nothing to do here."""


class _NoExecutor(TaskExecutor):
    def execute(self, claim: Claim, *, stop: StopToken, deadline: object) -> Execution:
        raise NotImplementedError("the command line runs no tasks")

    def close(self) -> None:
        """Nothing to let go of."""


@contextmanager
def database_address(settings: Settings) -> Iterator[str]:
    """The database's address; an embedded server runs for the length of the block when the settings name none.

    Raises:
        ConfigurationError: when the embedded server cannot be started.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedPostgres(settings.data_dir / "postgres")
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def open_session(settings: Settings, *, apply_migrations: bool = True) -> Iterator[Session]:
    """The session of one command.

    Raises:
        ConfigurationError: when the settings do not fit.
        StoreUnavailable: when the database cannot be reached.
    """
    with database_address(settings) as address:
        pool = ConnectionPoolManager(
            address,
            PoolSettings(min_size=1, max_size=4, acquire_timeout=5.0, application_name="geoworker cli"),
            password=database_password(settings) if settings.database_url is not None else None,
        )
        try:
            database = Database(pool)
            if apply_migrations:
                migrate(database)
            store = PostgresStateStore(
                database,
                StoreOptions(worker_id=settings.worker_id, hint_interval=timedelta(seconds=settings.hint_seconds)),
            )
            jobs = job_registry()
            machine = CoreMachine(
                jobs=jobs,
                handlers=handler_registry(),
                store=store,
                publisher=_LeaveInOutbox(),
                executor=_NoExecutor(),
                options=MachineOptions(worker_id=settings.worker_id),
            )
            yield Session(settings=settings, jobs=jobs, database=database, store=store, machine=machine)
        finally:
            pool.close()
