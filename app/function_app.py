"""The Azure Function App (v2 programming model): the front door, made of the same parts as every other process.

The Functions host looks for ``app`` in the package's ``function_app.py``, which calls :func:`build` with the
environment's settings. Everything a trigger does is a method of :class:`FrontDoor`, callable without the host.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

import azure.functions as func

from app.api.application import create_app
from app.api.auth import Caller
from app.composition import Application, Role, compose
from app.logs import configure_logging
from app.settings import OrchestrationMode, Settings
from core.errors import GeoworkerError, MalformedMessage
from core.messages import decode
from core.outcome import Outcome
from infrastructure.postgres.migrations import migrate
from transports.base import Complete, DeadLetter, Retry
from transports.settlement import settlement_for

logger = logging.getLogger(__name__)

SERVICE_BUS_SETTING = "ServiceBusConnection"
"""The app setting (or prefix of settings, ``ServiceBusConnection__fullyQualifiedNamespace``) that triggers use."""


class RedeliverMessage(GeoworkerError):
    """Raised out of a Service Bus trigger so that the host abandons the message and it comes again."""


@dataclass(slots=True)
class FrontDoor:
    """What the triggers call. The parts are composed at the first call: importing the app connects to nothing."""

    settings: Settings
    _application: Application | None = field(default=None, repr=False)
    _bridge: func.AsgiMiddleware | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def application(self) -> Application:
        """The wired parts, migrated and running; in service_bus mode the host triggers take our loops' place."""
        with self._lock:
            if self._application is None:
                configure_logging(self.settings)
                application = compose(self.settings, Role.ORCHESTRATOR)
                migrate(application.database)
                match self.settings.docker_orchestration_mode:
                    case OrchestrationMode.SERVICE_BUS:
                        application.lifecycle.start_background()  # the host's triggers read the queues
                    case OrchestrationMode.HTTP_TRIGGER | OrchestrationMode.IN_MEMORY:
                        application.lifecycle.start()
                self._application = application
            return self._application

    @property
    def bridge(self) -> func.AsgiMiddleware:
        """The Starlette application behind the host's HTTP trigger."""
        if self._bridge is None:
            web = create_app(self.application, manage_lifecycle=False, unidentified=Caller("function-key"))
            self._bridge = func.AsgiMiddleware(web)  # type: ignore[no-untyped-call]
        return self._bridge

    def on_message(self, message: func.ServiceBusMessage) -> Outcome | None:
        """Handle one message of the jobs or functions queue; returning completes it.

        Raises:
            RedeliverMessage: when nothing could be decided or recorded now, or the message names nothing we know: the
                host abandons it, and after the queue's delivery limit it is dead-lettered.
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
                raise RedeliverMessage(f"not now, again in {delay.total_seconds():.0f} s")
            case DeadLetter(reason=reason, detail=detail):
                raise RedeliverMessage(f"{reason}: {detail}")
            case _:
                assert_never(settlement)

    def on_timer(self, timer: func.TimerRequest) -> Mapping[str, Any]:
        """Sweep and relay: what was lost, left behind or never called back is found here."""
        report = self.application.sweeper.run_once()
        sent = self.application.relay.flush()
        if timer.past_due:
            logger.warning("the timer is late", extra={"action": "timer.late"})
        return {"swept": report.total, "relayed": sent}


def build(settings: Settings) -> func.FunctionApp:
    """The Function App for these settings: HTTP routes, the timer, and in service_bus mode the two queue triggers."""
    door = FrontDoor(settings)
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)

    @app.function_name("http")
    @app.route(
        route="{*path}",
        methods=[func.HttpMethod.GET, func.HttpMethod.POST, func.HttpMethod.DELETE],
        auth_level=func.AuthLevel.ANONYMOUS if settings.has_authentication else func.AuthLevel.FUNCTION,
    )
    async def http(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
        """The same Starlette routes as every other process, through the ASGI bridge."""
        answer: func.HttpResponse = await door.bridge.handle_async(req, context)
        return answer

    @app.function_name("sweep")
    @app.timer_trigger(schedule="*/15 * * * * *", arg_name="timer", run_on_startup=False, use_monitor=False)
    def sweep(timer: func.TimerRequest) -> None:
        """Sweep and relay."""
        door.on_timer(timer)

    if settings.docker_orchestration_mode is OrchestrationMode.SERVICE_BUS:

        @app.function_name("jobs")
        @app.service_bus_queue_trigger(
            arg_name="message", queue_name=settings.jobs_queue, connection=SERVICE_BUS_SETTING
        )
        def jobs(message: func.ServiceBusMessage) -> None:
            """Plan stages, finish jobs."""
            door.on_message(message)

        @app.function_name("tasks")
        @app.service_bus_queue_trigger(
            arg_name="message", queue_name=settings.functions_queue, connection=SERVICE_BUS_SETTING
        )
        def tasks(message: func.ServiceBusMessage) -> None:
            """Run short tasks."""
            door.on_message(message)

    return app
