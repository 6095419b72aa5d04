"""The worker loop: one delivery at a time to its outcome, its settlement, next."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from core.errors import GeoworkerError
from core.heartbeat import Renew
from core.messages import Message, TaskMessage
from core.outcome import Outcome, Rejected
from core.stopping import StopReason, StopToken
from transports.base import Delivery, DeliveryLost, Retry, TaskSource
from transports.settlement import settlement_for

logger = logging.getLogger(__name__)

_POLL = timedelta(seconds=30)
_PAUSE_AFTER_ERROR = 1.0


class MessageHandler(Protocol):
    """What handles a message: ``CoreMachine.handle``."""

    def __call__(self, message: Message, *, stop: StopToken | None = None, renew: Renew | None = None) -> Outcome: ...


@dataclass(slots=True)
class LoopStatus:
    """What a worker loop is doing; read by health."""

    running: bool = False
    current_task: str | None = None
    current_since: datetime | None = None
    messages_processed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    settlements_lost: int = 0
    last_error: str | None = None


def serve(source: TaskSource, handle: MessageHandler, stop: StopToken, status: LoopStatus | None = None) -> None:
    """Receive, handle and settle until ``stop`` is asked for. Never raises for what a message does.

    Each task gets a stop token of its own, which the worker's drain reaches through this loop.
    """
    status = status or LoopStatus()
    status.running = True
    unsubscribe = stop.subscribe(lambda _: source.wake())
    try:
        while not stop.requested:
            try:
                delivery = source.receive(_POLL)
                if delivery is None:
                    continue
                _process(delivery, handle, stop, status)
            except Exception as error:  # the loop outlives everything that one message or poll can do
                status.last_error = f"{type(error).__name__}: {error}"
                logger.exception("the worker loop caught an error", extra={"action": "loop.error"})
                stop.wait(_PAUSE_AFTER_ERROR)
    finally:
        unsubscribe()
        status.running = False


def _process(delivery: Delivery, handle: MessageHandler, stop: StopToken, status: LoopStatus) -> None:
    if stop.requested:  # between fetch and start: give it back untouched
        delivery.settle(Retry(timedelta(0)))
        return
    message = delivery.message
    status.current_task = message.task_id if isinstance(message, TaskMessage) else None
    status.current_since = datetime.now(UTC)
    task_stop = StopToken()
    unsubscribe = stop.subscribe(task_stop.request)
    try:
        outcome = handle(message, stop=task_stop, renew=delivery.renew)
    finally:
        unsubscribe()
        status.current_task = status.current_since = None
    status.messages_processed += 1
    name = type(outcome).__name__
    status.outcomes[name] = status.outcomes.get(name, 0) + 1
    if isinstance(outcome, Rejected):
        logger.error(
            "message rejected: %s", outcome.detail, extra={"action": "message.rejected", "reason": outcome.reason}
        )
    try:
        delivery.settle(settlement_for(outcome))
    except DeliveryLost as error:  # harmless: it comes again and finds the work done
        status.settlements_lost += 1
        logger.warning("settlement lost: %s", error, extra={"action": "settlement.lost"})


class BackgroundQueueWorker:
    """The thread around :func:`serve`, with as many loops as ``concurrency`` says."""

    def __init__(
        self,
        source_factory: Callable[[], TaskSource],
        handle: MessageHandler,
        *,
        name: str = "queue_worker",
        concurrency: int = 1,
    ) -> None:
        self.name = name
        self._handle = handle
        self._stop = StopToken()
        self._sources = [source_factory() for _ in range(concurrency)]
        self._statuses = [LoopStatus() for _ in range(concurrency)]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the sources and start the loops."""
        for number, (source, status) in enumerate(zip(self._sources, self._statuses, strict=True)):
            thread = threading.Thread(
                target=self._run, args=(source, status), name=f"{self.name}-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def _run(self, source: TaskSource, status: LoopStatus) -> None:
        try:
            with source:
                serve(source, self._handle, self._stop, status)
        except GeoworkerError as error:
            status.last_error = str(error)
            logger.exception("the worker loop ended", extra={"action": "loop.ended"})

    def stop(self, reason: StopReason = StopReason.DRAIN) -> None:
        """Ask the loops to end: no new message, and the running task is asked to stop."""
        self._stop.request(reason)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the loops, ``timeout`` seconds for all of them together; True when all have ended."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if give_up_at is None else max(0.0, give_up_at - time.monotonic()))
        return not self.alive

    @property
    def alive(self) -> bool:
        """Whether any loop still runs."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def started(self) -> bool:
        """Whether the loops were started here (a Function App's host triggers the work instead)."""
        return bool(self._threads)

    @property
    def healthy(self) -> bool:
        """Whether every loop that was started still runs."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def sources(self) -> list[TaskSource]:
        """The sources, one for each loop."""
        return self._sources

    def status(self) -> dict[str, Any]:
        """What /health says of this worker."""
        sources = [source.status() for source in self._sources]
        polls = [source.last_poll_at for source in sources if source.last_poll_at is not None]
        outcomes: dict[str, int] = {}
        for status in self._statuses:
            for name, count in status.outcomes.items():
                outcomes[name] = outcomes.get(name, 0) + count
        errors = [text for text in (*(s.last_error for s in self._statuses), *(s.last_error for s in sources)) if text]
        return {
            "running": self.healthy and not self._stop.requested,
            "connected": all(source.connected for source in sources),
            "concurrency": len(self._sources),
            "last_poll_at": max(polls).isoformat() if polls else None,
            "messages_processed": sum(status.messages_processed for status in self._statuses),
            "outcomes": outcomes,
            "current_tasks": [
                {"task_id": status.current_task, "since": status.current_since.isoformat()}
                for status in self._statuses
                if status.current_task is not None and status.current_since is not None
            ],
            "received": sum(source.received for source in sources),
            "retried": sum(source.retried for source in sources),
            "dead_lettered": sum(source.dead_lettered for source in sources),
            "settlements_lost": sum(status.settlements_lost for status in self._statuses),
            "last_error": errors[-1] if errors else None,
            "details": _together([source.details for source in sources]),
        }


def _together(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several sources of one queue say: their counts added up, the rest as the first says it."""
    together: dict[str, Any] = dict(details[0]) if details else {}
    for more in details[1:]:
        for name, value in more.items():
            if isinstance(value, int) and not isinstance(value, bool):
                together[name] = together.get(name, 0) + value
    return together
