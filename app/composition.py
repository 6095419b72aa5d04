"""Settings to wired parts: the one place that knows every part."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_never

from app import child
from app.dead_letters import DeadLetters
from app.lifecycle import DockerWorkerLifecycle
from app.process_report import process_report
from app.raster_limits import raster_limits
from app.reporter import Reporter
from app.role import Role
from app.settings import OrchestrationMode, Settings
from app.storage import storage_spec
from app.transport import dead_letter_queues, queue_gauges, transport_for
from app.worker import BackgroundQueueWorker
from core.dispatch import Dispatcher
from core.errors import ConfigurationError, Fault
from core.handlers import HandlerRegistry
from core.heartbeat import HeartbeatOptions
from core.jobs import JobRegistry, check_registries
from core.machine import CoreMachine, MachineOptions
from core.messages import Channel
from core.ports import CheckpointStore, Execution, StateStore, TaskExecutor
from core.records import Claim, RunsOn
from core.retry import Backoff
from core.stopping import StopToken
from core.storage import Storage
from infrastructure.callbacks import CallbackDispatcher
from infrastructure.connection_pool import ConnectionPoolManager, PasswordProvider, PoolSettings
from infrastructure.inline_executor import HandlerParts, InlineExecutor
from infrastructure.outbound import OutboundPolicy
from infrastructure.postgres.action_store import PostgresActionStore
from infrastructure.postgres.checkpoint_store import PostgresCheckpointStore
from infrastructure.postgres.database import Database
from infrastructure.postgres.hints import PostgresHints
from infrastructure.postgres.inbox import PostgresInbox
from infrastructure.postgres.outbox_store import PostgresOutboxStore
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from infrastructure.postgres.sweep_store import PostgresSweepStore
from infrastructure.postgres.worker_store import PostgresWorkerStore
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ExecutorOptions, ProcessExecutor
from infrastructure.process_executor.supervision import SupervisionRules
from infrastructure.relay import Relay, RelayOptions, RelayStatus
from infrastructure.relay_lanes import RelayLanes
from infrastructure.storage.handler_storage import HandlerStorage
from infrastructure.sweeper import Sweeper
from infrastructure.telemetry.handles import MeteredHandle, TracedHandle
from infrastructure.telemetry.metrics import Metrics
from infrastructure.telemetry.tracing import Tracer, TracingSpec, start_tracing
from infrastructure.watchdogs import DiskWatch, MemoryWatch
from infrastructure.work_cleaner import WorkCleaner
from services.registry import handler_registry, job_registry

if TYPE_CHECKING:
    from transports.http_trigger import HttpInbox
    from transports.service_bus.depth import QueueGauge


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """What ``POST /task/start`` works with."""

    accepted: PostgresInbox
    inbox: HttpInbox
    callbacks: OutboundPolicy


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
    outbox: PostgresOutboxStore
    checkpoints: CheckpointStore
    sweep_store: PostgresSweepStore
    relay: RelayLanes
    sweeper: Sweeper
    machine: CoreMachine
    storage: Storage
    metrics: Metrics
    tracer: Tracer
    workers: Mapping[str, BackgroundQueueWorker]
    lifecycle: DockerWorkerLifecycle = field(repr=False)
    worker_store: PostgresWorkerStore
    actions: PostgresActionStore
    memory: MemoryWatch
    children: ProcessExecutor | None = None
    trigger: HttpTrigger | None = None
    dead_letters: DeadLetters | None = None
    queue_gauges: Sequence[QueueGauge] = ()


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
    conninfo = database_url if database_url is not None else database_conninfo(settings)
    pool = connection_pool(settings, role, conninfo)
    database = Database(pool)
    trigger = _trigger(settings, role, database)
    transport = transport_for(settings, role, trigger.inbox if trigger is not None else None)
    calls_back = Role.WORKER in role
    options = StoreOptions(
        worker_id=settings.worker_id,
        direct=frozenset(transport.routes).difference(transport.slow),
        hint_interval=timedelta(seconds=settings.hint_seconds),
    )
    store = PostgresStateStore(database, options)
    outbox = PostgresOutboxStore(database)
    checkpoints = PostgresCheckpointStore(database)
    sweep_store = PostgresSweepStore(database, options, backoff=backoff)
    rng = random.Random()  # noqa: S311 - jitter
    routes: dict[Channel, Dispatcher] = dict(transport.routes)
    if calls_back:
        secrets = [secret.get_secret_value() for secret in settings.callback_secrets]
        routes[Channel.CALLBACKS] = CallbackDispatcher(
            store, callback_policy(settings), secrets, timeout=settings.callback_timeout_seconds
        )
    slow = {**transport.slow, Channel.CALLBACKS: timedelta(seconds=settings.callback_timeout_seconds)}
    relay = _relays(settings, outbox, store, routes, slow)
    jobs, handlers = job_registry(), handler_registry()
    if Role.ORCHESTRATOR in role:
        check_registries(jobs, handlers, frozenset(transport.routes))
    metrics = Metrics()
    memory = MemoryWatch(settings.memory_soft_percent / 100)
    children = process_executor(settings, conninfo, memory) if Role.WORKER in role else None
    storage = HandlerStorage(storage_spec(settings))
    machine = CoreMachine(
        jobs=jobs,
        handlers=handlers,
        store=store,
        publisher=relay,
        executor=_executor(settings, handlers, database, storage, children),
        options=MachineOptions(
            worker_id=settings.worker_id,
            lease=timedelta(seconds=settings.lease_seconds),
            heartbeat=HeartbeatOptions(interval=timedelta(seconds=settings.heartbeat_seconds)),
            backoff=backoff,
            task_timeout=(
                timedelta(seconds=settings.task_timeout_seconds) if settings.task_timeout_seconds is not None else None
            ),
        ),
        rng=rng,
    )
    sweeper = Sweeper(sweep_store, relay, interval=timedelta(seconds=settings.sweep_seconds), observe=metrics.swept)
    tracing = tracing_spec(settings)
    tracer = start_tracing(tracing)
    handle = MeteredHandle(TracedHandle(machine.handle, tracer), metrics)
    workers = {
        _WORKER_NAMES[channel]: BackgroundQueueWorker(
            source, handle, name=_WORKER_NAMES[channel], concurrency=_concurrency(settings, channel)
        )
        for channel, source in transport.sources.items()
    }
    worker_store = PostgresWorkerStore(database)
    reporter = Reporter(worker_store, lambda: process_report(application))
    lifecycle = DockerWorkerLifecycle(
        list(workers.values()),
        [reporter, relay, sweeper, *_cleaners(settings, role, store)],
        [
            machine.close,
            storage.close,
            tracer.close,
            *(route.close for route in routes.values()),
            pool.close,
        ],
        grace=settings.shutdown_grace_seconds,
    )
    metrics.watch_heartbeats(machine.heartbeat_counts)
    metrics.watch_relay(relay.status)
    metrics.watch_workers({name: worker.status for name, worker in workers.items()})
    metrics.watch_pool(pool.status)
    metrics.watch_memory(memory)
    if children is not None:
        metrics.watch_executor(children.status)
    application = Application(
        settings=settings,
        metrics=metrics,
        tracer=tracer,
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
        storage=storage,
        workers=workers,
        lifecycle=lifecycle,
        worker_store=worker_store,
        actions=PostgresActionStore(database),
        memory=memory,
        children=children,
        trigger=trigger,
        dead_letters=_dead_letters(settings, role, store, database),
        queue_gauges=queue_gauges(settings) if Role.ORCHESTRATOR in role else (),
    )
    return application


def _cleaners(settings: Settings, role: Role, store: StateStore) -> list[WorkCleaner]:
    """Of work files, where tasks have some."""
    if Role.WORKER not in role:
        return []
    return [WorkCleaner(settings.work_root, store, keep=timedelta(hours=settings.work_keep_hours))]


_SLOW_BATCH = 8  # what the dispatchers POST side by side
_HOLD_MARGIN = timedelta(seconds=15)
# A queue that is away is away for every message: what is left waiting for it must not wait minutes after it is back.
_QUICK_BACKOFF = Backoff(base=timedelta(seconds=0.5), cap=timedelta(seconds=15))


def _relays(
    settings: Settings,
    outbox: PostgresOutboxStore,
    store: StateStore,
    routes: Mapping[Channel, Dispatcher],
    slow: Mapping[Channel, timedelta],
) -> RelayLanes:
    """A lane for everything that is quick to send, and one for each slow channel."""
    status = RelayStatus()
    quick = {channel: route for channel, route in routes.items() if channel not in slow}
    lanes = [
        Relay(
            outbox,
            store,
            {channel: route},
            RelayOptions(
                name=f"relay-{channel}",
                spacing=timedelta(milliseconds=10),
                batch=_SLOW_BATCH,
                hold=slow[channel] + _HOLD_MARGIN,
                max_age={Channel.CALLBACKS: timedelta(seconds=settings.callback_max_age_seconds)},
            ),
            status=status,
        )
        for channel, route in routes.items()
        if channel in slow
    ]
    return RelayLanes(Relay(outbox, store, quick, RelayOptions(backoff=_QUICK_BACKOFF), status=status), lanes)


def _trigger(settings: Settings, role: Role, database: Database) -> HttpTrigger | None:
    """What the worker's routes need; None in a process that takes no POSTs."""
    if settings.docker_orchestration_mode is not OrchestrationMode.HTTP_TRIGGER or Role.WORKER not in role:
        return None
    from transports.http_trigger import HttpInbox

    accepted = PostgresInbox(
        database, max_backlog=settings.max_backlog, hint_interval=timedelta(seconds=settings.hint_seconds)
    )
    return HttpTrigger(accepted=accepted, inbox=HttpInbox(accepted), callbacks=callback_policy(settings))


def callback_policy(settings: Settings) -> OutboundPolicy:
    """Where callbacks may go."""
    return OutboundPolicy(allowed_hosts=settings.callback_allowed_hosts, allow_private=settings.allow_private_addresses)


_WORKER_NAMES = {
    Channel.JOBS: "jobs_worker",
    Channel.FUNCTIONS: "functions_worker",
    Channel.DOCKER: "queue_worker",
}


def _dead_letters(settings: Settings, role: Role, store: StateStore, database: Database) -> DeadLetters | None:
    queues = dead_letter_queues(settings) if Role.ORCHESTRATOR in role else ()
    if not queues:
        return None
    interval = timedelta(seconds=settings.hint_seconds)
    return DeadLetters(queues, store, PostgresHints(database, worker_id=settings.worker_id, hint_interval=interval))


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


def _executor(
    settings: Settings,
    handlers: HandlerRegistry,
    database: Database,
    storage: HandlerStorage,
    children: ProcessExecutor | None,
) -> TaskExecutor:
    inline = InlineExecutor(
        HandlerParts(
            handlers=handlers,
            checkpoints=PostgresCheckpointStore(database),
            work_root=settings.work_root,
            services=child.handler_services(
                settings.output_dir, database, storage, settings.output_url, raster=raster_limits(settings)
            ),
        )
    )
    if children is None:
        return inline
    return ExecutorByPlace({RunsOn.FUNCTIONS: inline, RunsOn.DOCKER: children})


def tracing_spec(settings: Settings) -> TracingSpec:
    """Where traces go, if anywhere."""
    connection = settings.applicationinsights_connection_string
    return TracingSpec(
        otlp_endpoint=settings.otel_exporter_otlp_endpoint,
        azure_connection_string=connection.get_secret_value() if connection is not None else None,
    )


def process_executor(settings: Settings, conninfo: str, memory: MemoryWatch) -> ProcessExecutor:
    """The executor of long tasks: warm child processes under supervision."""
    return ProcessExecutor(
        ChildSpec(
            bootstrap=child.BOOTSTRAP,
            arguments=child.arguments(settings, conninfo),
            preload=("numpy", "rasterio"),
            log_level=logging.getLevelNamesMapping()[settings.log_level],
            tracing=tracing_spec(settings),
        ),
        ExecutorOptions(
            rules=SupervisionRules(
                grace=settings.shutdown_grace_seconds,
                stall=settings.task_stall_seconds,
                stall_kills=settings.task_stall_kills,
            ),
            recycle_tasks=settings.executor_recycle_tasks,
            recycle_bytes=settings.executor_recycle_mb << 20,
        ),
        memory=memory,
        disk=DiskWatch(settings.work_root, settings.min_free_disk_mb << 20),
    )


def database_conninfo(settings: Settings) -> str:
    """The database's address.

    Raises:
        ConfigurationError: when the settings name none.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    raise ConfigurationError("settings", [Fault("DATABASE_URL", "must be set: postgresql://user@host:5432/database")])


def database_password(settings: Settings) -> PasswordProvider | None:
    """What gives the database's password at each new connection; None when the address has it, or none is needed."""
    if not settings.database_entra_auth:
        return None
    from infrastructure.credentials import entra_database_password

    return entra_database_password()


def connection_pool(settings: Settings, role: Role, conninfo: str) -> ConnectionPoolManager:
    """The database pool of a process."""
    # Each loop, the relay, the sweeper and each heartbeat may need a connection at the same time as the API's threads.
    needed = 4 + settings.worker_concurrency * 2 + settings.functions_concurrency * 2
    return ConnectionPoolManager(
        conninfo,
        PoolSettings(
            min_size=settings.docker_db_pool_min,
            max_size=max(settings.docker_db_pool_max, needed) if role is Role.EMBEDDED else settings.docker_db_pool_max,
            application_name=f"geoworker {settings.worker_id}",
        ),
        password=database_password(settings),
    )
