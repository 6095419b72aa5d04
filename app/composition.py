"""Settings to wired parts: the one place that knows every part, and the only reader of the mode."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Flag, auto
from functools import partial
from typing import Any, assert_never

from app.lifecycle import DockerWorkerLifecycle
from app.settings import OrchestrationMode, Settings
from app.worker import BackgroundQueueWorker
from core.errors import ConfigurationError, Fault
from core.handlers import HandlerRegistry
from core.heartbeat import HeartbeatOptions
from core.jobs import JobRegistry
from core.machine import CoreMachine, MachineOptions
from core.messages import Channel
from core.ports import CheckpointStore, Execution, OutboxStore, StateStore, TaskExecutor
from core.records import Claim, RunsOn
from core.retry import Backoff
from core.stopping import StopToken
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.inline_executor import HandlerParts, InlineExecutor
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database
from infrastructure.postgres.outbox_store import PostgresOutboxStore
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from infrastructure.postgres.sweep_store import PostgresSweepStore
from infrastructure.relay import Relay, RelayOptions
from infrastructure.sweeper import Sweeper
from services.registry import handler_registry, job_registry
from transports.base import TaskDispatcher, TaskSource


class Role(Flag):
    """What a process does: plan jobs and run short stages, run long tasks, or both (embedded)."""

    ORCHESTRATOR = auto()
    WORKER = auto()
    EMBEDDED = ORCHESTRATOR | WORKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A mode's transports for one role: what it can send, and what it receives."""

    routes: Mapping[Channel, TaskDispatcher]
    sources: Mapping[Channel, Callable[[], TaskSource]]
    close: Sequence[Callable[[], None]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The wired parts of one process."""

    settings: Settings
    role: Role
    jobs: JobRegistry
    handlers: HandlerRegistry
    pool: ConnectionPoolManager
    database: Database
    store: StateStore
    outbox: OutboxStore
    checkpoints: CheckpointStore
    sweep_store: PostgresSweepStore
    relay: Relay
    sweeper: Sweeper
    machine: CoreMachine
    workers: Mapping[str, BackgroundQueueWorker]
    lifecycle: DockerWorkerLifecycle = field(repr=False)


class ExecutorByPlace:
    """Tasks of stages on functions run in this process, those on docker in a child process."""

    def __init__(self, executors: Mapping[RunsOn, TaskExecutor]) -> None:
        self._executors = executors

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        """Run the task where its stage says."""
        return self._executors[claim.task.runs_on].execute(claim, stop=stop, deadline=deadline)

    def close(self) -> None:
        """Close every executor."""
        for executor in self._executors.values():
            executor.close()


def compose(settings: Settings, role: Role, *, database_url: str | None = None) -> Application:
    """Wire one process. Connects to nothing yet but the database pool, which fills in the background.

    Args:
        settings: the parsed environment.
        role: what this process does.
        database_url: an embedded server's address; it wins over the settings.

    Raises:
        ConfigurationError: naming what is missing or does not fit together.
    """
    backoff = Backoff(
        base=timedelta(seconds=settings.retry_base_seconds), cap=timedelta(seconds=settings.retry_cap_seconds)
    )
    transport = transport_for(settings, role)
    pool = connection_pool(settings, role, database_url)
    database = Database(pool)
    options = StoreOptions(
        worker_id=settings.worker_id,
        direct=frozenset(transport.routes),
        hint_interval=timedelta(seconds=settings.hint_seconds),
    )
    store = PostgresStateStore(database, options)
    outbox = PostgresOutboxStore(database)
    checkpoints = PostgresCheckpointStore(database)
    sweep_store = PostgresSweepStore(database, options, backoff=backoff)
    rng = random.Random()  # noqa: S311 - jitter
    relay = Relay(
        outbox,
        store,
        transport.routes,
        RelayOptions(max_age={Channel.CALLBACKS: timedelta(seconds=settings.callback_max_age_seconds)}),
        rng,
    )
    jobs, handlers = job_registry(), handler_registry()
    machine = CoreMachine(
        jobs=jobs,
        handlers=handlers,
        store=store,
        publisher=relay,
        executor=_executor(settings, handlers, checkpoints),
        options=MachineOptions(
            worker_id=settings.worker_id,
            lease=timedelta(seconds=settings.lease_seconds),
            heartbeat=HeartbeatOptions(interval=timedelta(seconds=settings.heartbeat_seconds)),
            backoff=backoff,
        ),
        rng=rng,
    )
    sweeper = Sweeper(sweep_store, relay, interval=timedelta(seconds=settings.sweep_seconds))
    workers = {
        _WORKER_NAMES[channel]: BackgroundQueueWorker(
            source, machine.handle, name=_WORKER_NAMES[channel], concurrency=_concurrency(settings, channel)
        )
        for channel, source in transport.sources.items()
    }
    lifecycle = DockerWorkerLifecycle(
        list(workers.values()),
        [relay, sweeper],
        [machine.close, *(route.close for route in transport.routes.values()), *transport.close, pool.close],
        grace=settings.shutdown_grace_seconds,
    )
    return Application(
        settings=settings,
        role=role,
        jobs=jobs,
        handlers=handlers,
        pool=pool,
        database=database,
        store=store,
        outbox=outbox,
        checkpoints=checkpoints,
        sweep_store=sweep_store,
        relay=relay,
        sweeper=sweeper,
        machine=machine,
        workers=workers,
        lifecycle=lifecycle,
    )


_WORKER_NAMES = {
    Channel.JOBS: "jobs_worker",
    Channel.FUNCTIONS: "functions_worker",
    Channel.DOCKER: "queue_worker",
}


def transport_for(settings: Settings, role: Role) -> Transport:
    """The transports of the mode that the settings name: the only place where the mode is read."""
    match settings.docker_orchestration_mode:
        case OrchestrationMode.IN_MEMORY:
            return _in_memory(role)
        case OrchestrationMode.SERVICE_BUS | OrchestrationMode.HTTP_TRIGGER as mode:
            raise ConfigurationError(
                "settings", [Fault("DOCKER_ORCHESTRATION_MODE", f"{mode} is not built yet", str(mode))]
            )
        case mode:
            assert_never(mode)


def _in_memory(role: Role) -> Transport:
    from transports.in_memory import InMemoryDispatcher, InMemoryQueue, InMemorySource

    if role is not Role.EMBEDDED:
        raise ConfigurationError(
            "settings",
            [
                Fault(
                    "DOCKER_ORCHESTRATION_MODE",
                    "in_memory works within one process only (geoworker dev); an orchestrator and a worker of their "
                    "own need service_bus or http_trigger",
                    "in_memory",
                )
            ],
        )
    queues = {channel: InMemoryQueue() for channel in (Channel.JOBS, Channel.FUNCTIONS, Channel.DOCKER)}
    return Transport(
        routes={channel: InMemoryDispatcher(queue) for channel, queue in queues.items()},
        sources={channel: partial(InMemorySource, queue) for channel, queue in queues.items()},
    )


def _concurrency(settings: Settings, channel: Channel) -> int:
    match channel:
        case Channel.DOCKER:
            return settings.worker_concurrency
        case Channel.FUNCTIONS:
            return settings.functions_concurrency
        case Channel.JOBS | Channel.CALLBACKS:
            return 1
        case _:
            assert_never(channel)


def _executor(settings: Settings, handlers: HandlerRegistry, checkpoints: CheckpointStore) -> TaskExecutor:
    inline = InlineExecutor(
        HandlerParts(
            handlers=handlers,
            checkpoints=checkpoints,
            work_root=settings.work_root,
            services=handler_services(settings),
        )
    )
    return ExecutorByPlace({RunsOn.FUNCTIONS: inline, RunsOn.DOCKER: inline})


def handler_services(settings: Settings) -> Mapping[str, Any]:
    """What handlers are offered by name (``context.services``)."""
    return {"output_dir": settings.output_dir}


def connection_pool(settings: Settings, role: Role, database_url: str | None = None) -> ConnectionPoolManager:
    """The database pool of a process.

    Raises:
        ConfigurationError: when no database is named.
    """
    conninfo = database_url
    if conninfo is None and settings.database_url is not None:
        conninfo = settings.database_url.get_secret_value()
    if conninfo is None:
        raise ConfigurationError(
            "settings", [Fault("DATABASE_URL", "must be set: postgresql://user@host:5432/database")]
        )
    password = None
    if settings.database_entra_auth:
        from infrastructure.credentials import entra_database_password

        password = entra_database_password()
    # Each loop, the relay, the sweeper and each heartbeat may need a connection at the same time as the API's threads.
    needed = 4 + settings.worker_concurrency * 2 + settings.functions_concurrency * 2
    return ConnectionPoolManager(
        conninfo,
        PoolSettings(
            min_size=settings.docker_db_pool_min,
            max_size=max(settings.docker_db_pool_max, needed) if role is Role.EMBEDDED else settings.docker_db_pool_max,
            application_name=f"geoworker {settings.worker_id}",
        ),
        password=password,
    )
