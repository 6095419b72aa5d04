"""HTTP: tasks arrive by ``POST /task/start`` and leave by the same call to the worker's URL.

The inbox is the store itself: an acceptance is committed before the 202, and what was accepted is found there again
after a restart, by this or any other worker. No queue, no queue SDK.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from core.dispatch import retry_after
from core.errors import GeoworkerError
from core.messages import Message, TaskMessage
from transports.base import (
    Complete,
    DeadLetter,
    DispatchResult,
    Refused,
    Retry,
    Sent,
    Settlement,
    SourceStatus,
    TaskDispatcher,
    TaskSource,
    TryAgain,
)

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

_PARALLEL_POSTS = 8
_BATCH = 50


class AcceptedTasks(Protocol):
    """Where acceptances are kept."""

    def waiting(self, *, known: Sequence[str], limit: int) -> Sequence[TaskMessage]:
        """Accepted tasks that are due and not among ``known``, oldest first."""
        ...


class HttpInbox:
    """Accepted tasks on their way to this process's loops. Shared by the route that accepts and the sources.

    The in-memory part is a shortcut; every ``poll`` the store is asked for what it does not know: accepted before a
    restart, given back, or due for a retry.
    """

    def __init__(self, accepted: AcceptedTasks, *, poll: timedelta = timedelta(seconds=2)) -> None:
        self._accepted = accepted
        self._poll = poll.total_seconds()
        self._changed = threading.Condition()
        self._ready: deque[TaskMessage] = deque()
        self._known: set[str] = set()
        self._held_until: dict[str, float] = {}
        self._asked_at = -1e9
        self.last_error: str | None = None
        self.last_poll_at: datetime | None = None

    def put(self, message: TaskMessage) -> None:
        """A task whose acceptance was just committed."""
        with self._changed:
            if message.task_id not in self._known:
                self._known.add(message.task_id)
                self._ready.append(message)
                self._changed.notify()

    def take(self, timeout: float, stopping: threading.Event) -> TaskMessage | None:
        """The next task, waiting up to ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not stopping.is_set():
            with self._changed:
                if self._ready:
                    return self._ready.popleft()
            self._ask_store()
            with self._changed:
                left = deadline - time.monotonic()
                if self._ready:
                    continue
                if left <= 0:
                    return None
                next_ask = self._asked_at + self._poll - time.monotonic()
                self._changed.wait(max(0.001, min(left, next_ask)))
        return None

    def _ask_store(self) -> None:
        now = time.monotonic()
        with self._changed:
            if now - self._asked_at < self._poll:
                return
            self._asked_at = now
            for task_id in [task_id for task_id, until in self._held_until.items() if until <= now]:
                del self._held_until[task_id]
                self._known.discard(task_id)
            known = list(self._known)
        try:
            found = self._accepted.waiting(known=known, limit=_BATCH)
        except GeoworkerError as error:
            if self.last_error is None:
                logger.warning("the inbox cannot be read: %s", error, extra={"action": "inbox.lost"})
            self.last_error = str(error)
            return
        self.last_error = None
        self.last_poll_at = datetime.now(UTC)
        for message in found:
            self.put(message)

    def forget(self, task_id: str, *, delay: float = 0.0) -> None:
        """The task is settled: the store may name it again, after ``delay`` seconds."""
        with self._changed:
            if delay > 0:
                self._held_until[task_id] = time.monotonic() + delay
            else:
                self._known.discard(task_id)

    def wake(self) -> None:
        """End every running wait."""
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        """Tasks that wait in memory."""
        return len(self._ready)


@dataclass(frozen=True, slots=True)
class HttpDelivery:
    """An accepted task. It has no lock of its own: the lease is all there is."""

    message: TaskMessage
    _source: HttpTriggerSource
    delivery_count: int = 1

    def renew(self) -> None:
        """Nothing to renew."""

    def settle(self, settlement: Settlement) -> None:
        """Complete forgets the task, Retry leaves it in the inbox, DeadLetter is logged: the store keeps the task."""
        self._source.settled(self.message, settlement)


class HttpTriggerSource(TaskSource):
    """A consumer of an :class:`HttpInbox`."""

    def __init__(self, inbox: HttpInbox) -> None:
        self._inbox = inbox
        self._open = False
        self._waking = threading.Event()
        self._received = 0
        self._settlements: dict[type[Settlement], int] = {Complete: 0, Retry: 0, DeadLetter: 0}

    def open(self) -> None:
        self._open = True

    def close(self) -> None:
        self._open = False

    def receive(self, timeout: timedelta) -> HttpDelivery | None:
        message = self._inbox.take(timeout.total_seconds(), self._waking)
        self._waking.clear()
        if message is None:
            return None
        self._received += 1
        return HttpDelivery(message, self)

    def settled(self, message: TaskMessage, settlement: Settlement) -> None:
        """Record how a delivery ended."""
        self._settlements[type(settlement)] += 1
        match settlement:
            case Complete():
                self._inbox.forget(message.task_id)
            case Retry(delay=delay):
                self._inbox.forget(message.task_id, delay=delay.total_seconds())
            case DeadLetter(reason=reason, detail=detail):
                logger.error(
                    "task %s cannot run here: %s",
                    message.task_id,
                    detail,
                    extra={"action": "inbox.dead", "reason": reason},
                )

    def wake(self) -> None:
        self._waking.set()
        self._inbox.wake()

    def status(self) -> SourceStatus:
        return SourceStatus(
            connected=self._open and self._inbox.last_error is None,
            last_poll_at=self._inbox.last_poll_at,
            received=self._received,
            completed=self._settlements[Complete],
            retried=self._settlements[Retry],
            dead_lettered=self._settlements[DeadLetter],
            last_error=self._inbox.last_error,
            details={"waiting_in_memory": len(self._inbox)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTarget:
    """The worker to call, and what it should call back."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    bearer: Callable[[], str] | None = None  # gives the access token of the moment
    callback_url: str | None = None
    connect_timeout: float = 10.0
    timeout: float = 60.0  # a cold container answers late


class HttpTriggerDispatcher(TaskDispatcher):
    """POSTs each task to ``{DOCKER_WORKER_URL}/task/start``. Doing it twice does no harm: the worker knows the id."""

    def __init__(self, target: HttpTarget, *, client: httpx.Client | None = None) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._client = client
        self._threads = ThreadPoolExecutor(_PARALLEL_POSTS, thread_name_prefix="dispatch")

    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        """202 and 200 are sent; 408, 425, 429, 5xx and no answer are tried again; any other answer is final."""
        client = self._open()
        if len(messages) == 1:
            return [self._post(client, messages[0])]
        return list(self._threads.map(lambda message: self._post(client, message), messages))

    def _open(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    timeout=httpx.Timeout(self._target.timeout, connect=self._target.connect_timeout),
                    follow_redirects=False,
                )
            return self._client

    def _post(self, client: httpx.Client, message: Message) -> DispatchResult:
        import httpx

        if not isinstance(message, TaskMessage):
            return Refused(f"a {message.message_type} message cannot go to a worker")
        body: dict[str, Any] = {
            "task_id": message.task_id,
            "task_type": message.task_type,
            "job_id": message.parent_job_id,
        }
        if self._target.callback_url is not None:
            body["callback_url"] = self._target.callback_url
        headers = dict(self._target.headers)
        if message.traceparent is not None:
            headers["traceparent"] = message.traceparent
        if self._target.bearer is not None:
            try:
                headers["Authorization"] = f"Bearer {self._target.bearer()}"
            except Exception as error:  # noqa: BLE001 - whatever the identity library raises, there is no token now
                return TryAgain(f"no token for the worker: {type(error).__name__}: {error}")
        try:
            answer = client.post(f"{self._target.base_url.rstrip('/')}/task/start", json=body, headers=headers)
        except httpx.HTTPError as error:
            return TryAgain(f"the worker gave no answer: {type(error).__name__}: {error}")
        if answer.status_code in (200, 202):
            return Sent()
        text = f"the worker answered {answer.status_code}: {_detail(answer)}"
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            return TryAgain(text, retry_after(answer.headers.get("retry-after")))
        return Refused(text)

    def close(self) -> None:
        """Close connections. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._client is not None:
                self._client.close()


def _detail(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    detail = body.get("detail") if isinstance(body, dict) else None
    return str(detail or answer.text)[:500]
