"""Callbacks: a task's end is POSTed to whoever asked, signed, until it is acknowledged.

Signed by the Standard Webhooks convention (``webhook-id``, ``webhook-timestamp``, ``webhook-signature``). The body also
carries what Data Factory's WebHook activity reads: ``output``, ``error`` and ``statusCode``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from core.dispatch import DispatchResult, Refused, Sent, TryAgain, retry_after
from core.errors import StoreUnavailable
from core.messages import Message, TaskEnded
from core.ports import StateStore
from core.records import TaskRecord
from core.states import TaskStatus
from infrastructure.outbound import AddressRefused, OutboundPolicy

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

_PARALLEL_POSTS = 8
_CONNECT_TIMEOUT = 5.0
_REMEMBERED = 10_000


def callback_body(task: TaskRecord) -> dict[str, Any]:
    """What a callback says of an ended task."""
    error = task.error_details
    succeeded = task.status is TaskStatus.COMPLETED
    body: dict[str, Any] = {
        "type": "task.ended",
        "task_id": task.task_id,
        "job_id": task.job_id,
        "job_type": task.job_type,
        "task_type": task.task_type,
        "status": task.status,
        "attempt": task.attempt,
        "finished_at": task.finished_at.isoformat() if task.finished_at is not None else None,
        "result": dict(task.result_data) if task.result_data is not None else None,
        "output": {"task_id": task.task_id, "status": task.status, "result": dict(task.result_data or {})},
        "statusCode": "200" if succeeded else "500",
    }
    if not succeeded:
        message = error.message if error is not None else f"the task is {task.status}"
        code = (error.code or error.type) if error is not None else str(task.status)
        body["error"] = {"ErrorCode": code, "Message": message}
        body["error_details"] = error.as_dict() if error is not None else None
    return body


class CallbackDispatcher:
    """Sends :class:`~core.messages.TaskEnded` messages to their tasks' callback addresses."""

    def __init__(
        self,
        store: StateStore,
        policy: OutboundPolicy,
        secrets: Sequence[str],
        *,
        timeout: float = 15.0,
    ) -> None:
        self._store = store
        self._policy = policy
        self._secret = secrets[0] if secrets else None
        self._timeout = timeout
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_PARALLEL_POSTS, thread_name_prefix="callback")

    def dispatch(self, messages: Sequence[Message]) -> Sequence[DispatchResult]:
        """Any 2xx is an acknowledgement, 410 an end; everything else is tried again until the relay's age limit."""
        if len(messages) == 1:
            return [self._call(messages[0])]
        return list(self._threads.map(self._call, messages))

    def _call(self, message: Message) -> DispatchResult:
        if not isinstance(message, TaskEnded):
            return Refused(f"a {message.message_type} message is no callback")
        try:
            task = self._store.get_task(message.task_id)
        except StoreUnavailable as error:
            return TryAgain(str(error))
        if task is None or task.callback_url is None:
            return Refused("the task or its callback address is gone")
        try:
            return self._post(task, task.callback_url)
        except AddressRefused as error:
            return Refused(str(error))
        except OSError as error:
            return TryAgain(f"the callback's host cannot be resolved: {error}")

    def _post(self, task: TaskRecord, url: str) -> DispatchResult:
        import httpx

        parts = urlsplit(url)
        address = self._policy.resolve(url, field="callback_url")
        body = json.dumps(callback_body(task), separators=(",", ":"))
        request = self._open().build_request(
            "POST",
            urlunsplit(parts._replace(netloc=_netloc(address, parts.port))),
            content=body,
            headers={
                "Host": _netloc(parts.hostname or "", parts.port),
                "Content-Type": "application/json",
                **self._signature(f"msg_{task.task_id}", body),
                **({"traceparent": task.traceparent} if task.traceparent is not None else {}),
            },
            extensions={"sni_hostname": parts.hostname},
        )
        try:
            answer = self._open().send(request, follow_redirects=False, stream=True)
            answer.close()  # only its head matters
        except httpx.HTTPError as error:
            return TryAgain(f"no answer: {type(error).__name__}")
        if answer.is_success:
            return Sent()
        if answer.status_code == HTTPStatus.GONE:
            return Refused("answered 410: the receiver wants no more of this")
        return TryAgain(f"answered {answer.status_code}", retry_after(answer.headers.get("retry-after")))

    def _signature(self, message_id: str, body: str) -> Mapping[str, str]:
        moment = datetime.now(UTC)
        headers = {"webhook-id": message_id, "webhook-timestamp": str(int(moment.timestamp()))}
        if self._secret is not None:
            from standardwebhooks.webhooks import Webhook

            headers["webhook-signature"] = Webhook(self._secret).sign(message_id, moment, body)
        return headers

    def _open(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                timeout = httpx.Timeout(self._timeout, connect=min(_CONNECT_TIMEOUT, self._timeout))
                self._client = httpx.Client(timeout=timeout, follow_redirects=False, trust_env=False)
            return self._client

    def close(self) -> None:
        """Close connections. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._client is not None:
                self._client.close()


class CallbackRefused(Exception):
    """The callback's signature, timestamp or form is wrong."""


class CallbackVerifier:
    """Verifies callbacks: any of several secrets (rotation), five minutes of clock difference, each id once.

    Ids are remembered in this process. Another one that is sent the same callback takes it for new, which is harmless:
    a callback only says where to look.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = list(secrets)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the callback is new; False when its id was seen before (acknowledge it again).

        Raises:
            CallbackRefused: when no secret fits, the timestamp is too old or too new, or headers are missing.
        """
        from standardwebhooks.webhooks import Webhook, WebhookVerificationError

        wanted = {name.lower(): value for name, value in headers.items() if name.lower().startswith("webhook-")}
        reason = "no secret is configured"
        for secret in self._secrets:
            try:
                Webhook(secret).verify(body, wanted)
            except WebhookVerificationError as error:
                reason = str(error)
            except ValueError as error:
                reason = f"the body is no JSON: {error}"
            else:
                return self._is_new(wanted["webhook-id"])
        raise CallbackRefused(reason)

    def _is_new(self, delivery: str) -> bool:
        with self._lock:
            if delivery in self._seen:
                return False
            self._seen[delivery] = None
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return True


def _netloc(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
