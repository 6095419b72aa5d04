"""The Azure Function App (v2 programming model): the front door, made of the same parts as every other process.

The Functions host looks for ``app`` in the package's ``function_app.py``, which calls :func:`build` with the
environment's settings. Everything a trigger does is a method of :class:`FrontDoor`, callable without the host.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_never

import azure.functions as func

from app.api.application import create_app
from app.api.auth import Caller
from app.composition import Application, compose
from app.logs import configure_logging
from app.migrating import migrate_when_reachable
from app.role import Role
from app.settings import OrchestrationMode, Settings
from app.transport import service_bus_connection
from core.errors import GeoworkerError, MalformedMessage
from core.messages import Message, decode
from core.outcome import Outcome
from transports.base import Complete, DeadLetter, Retry, Sent
from transports.settlement import settlement_for

if TYPE_CHECKING:
    from transports.service_bus import ServiceBusDispatcher

logger = logging.getLogger(__name__)

SERVICE_BUS_SETTING = "ServiceBusConnection"
"""The app setting (or prefix of settings, ``ServiceBusConnection__fullyQualifiedNamespace``) that triggers use."""


TIMER_SCHEDULE = "*/15 * * * * *"
"""NCRONTAB: every 15 seconds."""


class RedeliverMessage(GeoworkerError):
    """Raised out of a Service Bus trigger so that the host abandons the message and it comes again."""


@dataclass(slots=True)
class FrontDoor:
    """What the triggers call. The parts are composed at the first call: importing the app connects to nothing."""

    settings: Settings
    _application: Application | None = field(default=None, repr=False)
    _bridge: func.AsgiMiddleware | None = field(default=None, repr=False)
    _copies: dict[str, ServiceBusDispatcher] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def application(self) -> Application:
        """The wired parts, running. Where the host's triggers read the queues, no loops of ours do."""
        with self._lock:
            if self._application is None:
                configure_logging(self.settings)
                application = compose(self.settings, Role.ORCHESTRATOR)
                migrate_when_reachable(application)
                if has_queue_triggers(self.settings):
                    application.lifecycle.start_background()
                else:
                    application.lifecycle.start()
                self._application = application
            return self._application

    @property
    def bridge(self) -> func.AsgiMiddleware:
        """The Starlette application behind the host's HTTP trigger."""
        application = self.application
        with self._lock:
            if self._bridge is None:
                web = create_app(application, manage_lifecycle=False, unidentified=Caller("function-key"))
                self._bridge = func.AsgiMiddleware(web)  # type: ignore[no-untyped-call]
            return self._bridge

    async def on_request(self, request: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """Answer a request as every other process would; the first one composes the parts, off the event loop."""
        bridge = await asyncio.to_thread(lambda: self.bridge)
        answer: func.HttpResponse = await bridge.handle_async(request, context)
        return answer

    def close(self) -> None:
        """Stop and close the parts, if they were ever composed."""
        with self._lock:
            application, self._application, self._bridge = self._application, None, None
            copies, self._copies = self._copies, {}
        for dispatcher in copies.values():
            dispatcher.close()
        if application is not None:
            application.lifecycle.drain()

    def on_message(self, message: func.ServiceBusMessage, queue: str) -> Outcome | None:
        """Handle one message of ``queue``; returning completes it.

        What could not be decided or recorded now waits in the queue as a copy that is due later: abandoned, it would
        come back at once and be dead-lettered after the delivery limit, within seconds.

        Raises:
            RedeliverMessage: when the message names nothing we know, or its copy cannot be sent: the host abandons it,
                and after the queue's delivery limit it is dead-lettered.
        """
        try:
            decoded = decode(message.get_body())
        except MalformedMessage as error:
            logger.error("%s", error, extra={"action": "message.rejected", "message_id": message.message_id})  # noqa: TRY400
            raise RedeliverMessage(str(error)) from error
        outcome = self.application.machine.handle(decoded)
        settlement = settlement_for(outcome)
        match settlement:
            case Complete():
                return outcome
            case Retry(delay=delay):
                self._put_off(decoded, queue, delay)
                return outcome
            case DeadLetter(reason=reason, detail=detail):
                raise RedeliverMessage(f"{reason}: {detail}")
            case _:
                assert_never(settlement)

    def _put_off(self, message: Message, queue: str, delay: timedelta) -> None:
        (result,) = self._copies_of(queue).schedule([message], delay)
        if not isinstance(result, Sent):
            raise RedeliverMessage(f"not now, and its copy could not be sent: {result}")
        logger.warning(
            "not now; again in %.0f s", delay.total_seconds(), extra={"action": "message.put_off", "queue": queue}
        )

    def _copies_of(self, queue: str) -> ServiceBusDispatcher:
        from transports.service_bus import ServiceBusDispatcher

        with self._lock:
            if queue not in self._copies:
                self._copies[queue] = ServiceBusDispatcher(service_bus_connection(self.settings), queue)
            return self._copies[queue]

    def on_timer(self, timer: func.TimerRequest) -> Mapping[str, Any]:
        """Sweep and relay: what was lost, left behind or never called back is found here."""
        if timer.past_due:
            logger.warning("the timer is late", extra={"action": "timer.late"})
        report = self.application.sweeper.run_once()
        sent = self.application.relay.flush()
        return {"swept": report.total, "relayed": sent}


def has_queue_triggers(settings: Settings) -> bool:
    """Whether the host reads the jobs and functions queues: always in service_bus mode, by choice in http_trigger."""
    match settings.docker_orchestration_mode:
        case OrchestrationMode.SERVICE_BUS:
            return True
        case OrchestrationMode.HTTP_TRIGGER:
            return settings.has_service_bus
        case OrchestrationMode.IN_MEMORY:
            return False
        case mode:
            assert_never(mode)


def build(settings: Settings, door: FrontDoor | None = None) -> func.FunctionApp:
    """The Function App for these settings: HTTP routes, the timer, and triggers for queues on Service Bus.

    ``door``: what the triggers call, for whoever wants to close it later.
    """
    door = door or FrontDoor(settings)
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    _add_http(app, door)

    @app.function_name("sweep")
    @app.timer_trigger(schedule=TIMER_SCHEDULE, arg_name="timer", run_on_startup=False, use_monitor=False)
    def sweep(timer: func.TimerRequest) -> None:
        """Sweep and relay."""
        door.on_timer(timer)

    if has_queue_triggers(settings):
        _add_queues(app, door)
    return app


def _add_http(app: func.FunctionApp, door: FrontDoor) -> None:
    @app.function_name("http")
    @app.route(
        route="{*path}",
        methods=[func.HttpMethod.GET, func.HttpMethod.POST, func.HttpMethod.DELETE],
        auth_level=func.AuthLevel.ANONYMOUS if door.settings.has_authentication else func.AuthLevel.FUNCTION,
    )
    async def http(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """The same Starlette routes as every other process, through the ASGI bridge."""
        return await door.on_request(req, context)

    @app.function_name("callback")
    @app.route(route="api/task/callback", methods=[func.HttpMethod.POST], auth_level=func.AuthLevel.ANONYMOUS)
    async def callback(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """Workers report ended tasks; the signature is the credential, so no function key is asked for."""
        return await door.on_request(req, context)

    @app.function_name("probe")
    @app.route(
        route="{probe:regex(^(livez|readyz|health)$)}",
        methods=[func.HttpMethod.GET],
        auth_level=func.AuthLevel.ANONYMOUS,
    )
    async def probe(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """Probes carry no credentials."""
        return await door.on_request(req, context)


def _add_queues(app: func.FunctionApp, door: FrontDoor) -> None:
    @app.function_name("jobs")
    @app.service_bus_queue_trigger(
        arg_name="message", queue_name=door.settings.jobs_queue, connection=SERVICE_BUS_SETTING
    )
    def jobs(message: func.ServiceBusMessage) -> None:
        """Plan stages, finish jobs."""
        door.on_message(message, door.settings.jobs_queue)

    @app.function_name("tasks")
    @app.service_bus_queue_trigger(
        arg_name="message", queue_name=door.settings.functions_queue, connection=SERVICE_BUS_SETTING
    )
    def tasks(message: func.ServiceBusMessage) -> None:
        """Run short tasks."""
        door.on_message(message, door.settings.functions_queue)
