"""One receiver or sender on the SDK, made when needed and thrown away at the first fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from transports.service_bus.connection import ServiceBusConnection, quietly

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient, ServiceBusReceiver, ServiceBusSender


class _SdkHandler(Protocol):
    def __enter__(self) -> Any: ...

    def close(self) -> None: ...


Handler = TypeVar("Handler", bound=_SdkHandler)

CLOSING_SECONDS = 5.0
"""How long an orderly close may take; it gives back what was on its way."""


class Link(Generic[Handler]):
    """A receiver or sender with a client of its own. Used by one thread at a time, as the SDK asks."""

    def __init__(self, connection: ServiceBusConnection, make: Callable[[ServiceBusClient], Handler]) -> None:
        self._connection = connection
        self._make = make
        self._client: ServiceBusClient | None = None
        self._handler: Handler | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a handler; the other end may be gone all the same."""
        return self._handler is not None

    def open(self) -> Handler:
        """The handler, connected now if it was not. Raises what the SDK raises."""
        if self._handler is None:
            self._client = self._connection.client()
            self._handler = self._make(self._client)
            try:
                self._handler.__enter__()
            except BaseException:
                self.drop()
                raise
        return self._handler

    def drop(self) -> threading.Thread | None:
        """Let go at once; the closing itself, which a half-open connection holds up for half a minute, runs apart."""
        parts = [part for part in (self._handler, self._client) if part is not None]
        self._handler = self._client = None
        return _close_apart(parts)


def receiver_link(connection: ServiceBusConnection, queue: str) -> Link[ServiceBusReceiver]:
    """A peek-lock receiver of a queue. No prefetch: a message that waits in a buffer loses its lock there."""

    def make(client: ServiceBusClient) -> ServiceBusReceiver:
        # The wait for a settlement's outcome is the receiver's option; the client's does not reach it.
        return client.get_queue_receiver(queue, prefetch_count=0, timeout=connection.settlement_timeout)

    return Link(connection, make)


def sender_link(connection: ServiceBusConnection, queue: str) -> Link[ServiceBusSender]:
    """A sender to a queue."""
    return Link(connection, lambda client: client.get_queue_sender(queue))


def _close_apart(parts: Sequence[ServiceBusClient | _SdkHandler]) -> threading.Thread | None:
    if not parts:
        return None

    def close() -> None:
        for part in parts:
            quietly(part.close)

    closing = threading.Thread(target=close, name="link-closing", daemon=True)
    closing.start()
    return closing
