"""Settings to transports: what each mode sends and receives, and by which queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, assert_never

from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.errors import ConfigurationError, Fault
from core.messages import Channel
from transports.base import TaskDispatcher, TaskSource

if TYPE_CHECKING:
    from transports.http_trigger import HttpInbox
    from transports.service_bus import ServiceBusConnection
    from transports.service_bus.dead_letters import DeadLetterQueue
    from transports.service_bus.depth import QueueGauge


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A mode's transports for one role: what it can send, and what it receives.

    ``slow``: channels whose other side may take its time to answer, and how long at most; each has a thread of its own.
    """

    routes: Mapping[Channel, TaskDispatcher]
    sources: Mapping[Channel, Callable[[], TaskSource]]
    slow: Mapping[Channel, timedelta] = field(default_factory=dict)


def transport_for(settings: Settings, role: Role, inbox: HttpInbox | None = None) -> Transport:
    """The transports of the mode that the settings name.

    Raises:
        ConfigurationError: when the mode does not fit the role, or a setting that it needs is missing.
    """
    match settings.docker_orchestration_mode:
        case OrchestrationMode.IN_MEMORY:
            return _in_memory(role)
        case OrchestrationMode.SERVICE_BUS:
            return _service_bus(settings, role)
        case OrchestrationMode.HTTP_TRIGGER:
            return _http_trigger(settings, role, inbox)
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


def _service_bus(settings: Settings, role: Role) -> Transport:
    from transports.service_bus import ServiceBusDispatcher, ServiceBusSource, SourceOptions

    connection = service_bus_connection(settings)
    options = SourceOptions(max_wait=timedelta(seconds=settings.service_bus_max_wait_seconds))
    queues = queue_names(settings)
    sends, receives = set[Channel](), set[Channel]()
    if Role.ORCHESTRATOR in role:
        sends |= {Channel.JOBS, Channel.FUNCTIONS, Channel.DOCKER}
        receives |= {Channel.JOBS, Channel.FUNCTIONS}
    if Role.WORKER in role:
        sends |= {Channel.JOBS, Channel.DOCKER}
        receives |= {Channel.DOCKER}
    return Transport(
        routes={channel: ServiceBusDispatcher(connection, queues[channel]) for channel in sends},
        sources={channel: partial(ServiceBusSource, connection, queues[channel], options) for channel in receives},
    )


def _http_trigger(settings: Settings, role: Role, inbox: HttpInbox | None) -> Transport:
    """Docker tasks go by POST. The orchestrator's own two queues are Service Bus's when that is set, else in memory.

    In memory, whichever process's relay finds a StageComplete in the outbox first plans on. A worker handles them too,
    so that it serves callers without an orchestrator. It relays no docker tasks: those come by POST, and once accepted
    they are found in the inbox.
    """
    from transports.http_trigger import HttpTarget, HttpTriggerDispatcher, HttpTriggerSource
    from transports.in_memory import InMemoryDispatcher, InMemoryQueue, InMemorySource

    own = _service_bus(settings, role) if settings.has_service_bus and role is Role.ORCHESTRATOR else None
    queues = {} if own is not None else {Channel.JOBS: InMemoryQueue()}
    routes: dict[Channel, TaskDispatcher] = dict(own.routes) if own is not None else {}
    slow: dict[Channel, timedelta] = {}
    if Role.ORCHESTRATOR in role:
        if own is None:
            queues[Channel.FUNCTIONS] = InMemoryQueue()
        if settings.docker_worker_url is None:
            raise ConfigurationError(
                "settings", [Fault("DOCKER_WORKER_URL", "must be set for http_trigger mode: the worker's base URL")]
            )
        key = settings.docker_worker_api_key
        target = HttpTarget(
            base_url=settings.docker_worker_url,
            headers={"X-Api-Key": key.get_secret_value()} if key is not None else {},
            bearer=_worker_token(settings),
            callback_url=settings.callback_url,
        )
        routes[Channel.DOCKER] = HttpTriggerDispatcher(target)
        slow[Channel.DOCKER] = timedelta(seconds=target.connect_timeout + target.timeout)
    sources: dict[Channel, Callable[[], TaskSource]] = {
        **(own.sources if own is not None else {}),
        **{channel: partial(InMemorySource, queue) for channel, queue in queues.items()},
    }
    if Role.WORKER in role and inbox is not None:
        sources[Channel.DOCKER] = partial(HttpTriggerSource, inbox)
    routes |= {channel: InMemoryDispatcher(queue) for channel, queue in queues.items()}
    return Transport(routes=routes, sources=sources, slow=slow)


def _worker_token(settings: Settings) -> Callable[[], str] | None:
    """Entra tokens for the worker, when its scope is set."""
    if settings.docker_worker_scope is None:
        return None
    from infrastructure.credentials import entra_token

    return entra_token(settings.docker_worker_scope)


def queue_names(settings: Settings) -> Mapping[Channel, str]:
    """The queue of each channel that has one."""
    return {
        Channel.JOBS: settings.jobs_queue,
        Channel.FUNCTIONS: settings.functions_queue,
        Channel.DOCKER: settings.docker_queue,
    }


def broker_queues(settings: Settings) -> Sequence[str]:
    """The names of the mode's queues; none when the mode has no queues outside this process."""
    match settings.docker_orchestration_mode:
        case OrchestrationMode.SERVICE_BUS:
            return list(dict.fromkeys(queue_names(settings).values()))
        case OrchestrationMode.HTTP_TRIGGER | OrchestrationMode.IN_MEMORY:
            return ()
        case mode:
            assert_never(mode)


def dead_letter_queues(settings: Settings) -> Sequence[DeadLetterQueue]:
    """The dead letters of each of the broker's queues."""
    names = broker_queues(settings)
    if not names:
        return ()
    from transports.service_bus.dead_letters import DeadLetterQueue

    connection = service_bus_connection(settings)
    return [DeadLetterQueue(connection, name) for name in names]


def queue_gauges(settings: Settings) -> Sequence[QueueGauge]:
    """A measure of each of the broker's queues."""
    names = broker_queues(settings)
    if not names:
        return ()
    from transports.service_bus.depth import QueueGauge

    connection = service_bus_connection(settings)
    return [QueueGauge(connection, name) for name in names]


def service_bus_connection(settings: Settings) -> ServiceBusConnection:
    """How the settings say to reach Service Bus.

    Raises:
        ConfigurationError: when they do not.
    """
    from transports.service_bus import ServiceBusConnection, entra_connection

    if settings.service_bus_connection_string is None and settings.service_bus_fqdn is not None:
        return entra_connection(settings.service_bus_fqdn, websockets=settings.service_bus_websockets)
    secret = settings.service_bus_connection_string
    return ServiceBusConnection(
        connection_string=secret.get_secret_value() if secret is not None else None,
        websockets=settings.service_bus_websockets,
    )
