"""One receiver or sender on the SDK, made when needed and thrown away at the first fault."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from transports.service_bus.connection import ServiceBusConnection, quietly

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient, ServiceBusReceiver, ServiceBusSender


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


class _SdkHandler(Closable, Protocol):
    def __enter__(self) -> Any: ...


Handler = TypeVar("Handler", bound=_SdkHandler)

CLOSING_SECONDS = 5.0
"""How long an orderly close may take; it gives back what was on its way."""
_LOOK_SECONDS = 0.1


class OpeningInterrupted(OSError):
    """Connecting was given up because somebody asked for it."""


class _Opening:
    """One attempt to connect."""

    def __init__(self, handler: _SdkHandler) -> None:
        self._handler = handler
        self.transport: Any = None
        self._done = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="link-opening", daemon=True).start()

    def _run(self) -> None:
        try:
            self._handler.__enter__()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error
        finally:
            self._done.set()

    def wait(self, seconds: float, interrupted: threading.Event | None) -> None:
        give_up_at = time.monotonic() + seconds
        while not self._done.wait(_LOOK_SECONDS):
            self.transport = _transport_of(self._handler) or self.transport
            if interrupted is not None and interrupted.is_set():
                _shut_socket(self.transport)
                raise OpeningInterrupted("connecting was given up")
            if time.monotonic() >= give_up_at:
                _shut_socket(self.transport)
                raise OSError(f"no answer to the connection within {seconds:g} s")
        if self._error is not None:
            raise self._error


def _transport_of(handler: _SdkHandler) -> Any:
    """What holds the handler's socket, or None. The SDK shows no way to it; it is looked for, not relied on.

    After a reset the SDK (7.15.0) drops its AMQP connection without closing the socket: that connection is in state
    END, where ``close()`` returns early, and the descriptor would stay until the garbage collector comes by.
    """
    return getattr(getattr(getattr(handler, "_handler", None), "_connection", None), "_transport", None)


def _shut_socket(transport: Any) -> None:
    """End a read that would never end."""
    found = getattr(transport, "sock", None)
    if isinstance(found, socket.socket):
        quietly(partial(found.shutdown, socket.SHUT_RDWR))


class Link(Generic[Handler]):
    """A receiver or sender with a client of its own. Used by one thread at a time, as the SDK asks."""

    def __init__(self, connection: ServiceBusConnection, make: Callable[[ServiceBusClient], Handler]) -> None:
        self._connection = connection
        self._make = make
        self._client: ServiceBusClient | None = None
        self._handler: Handler | None = None
        self._socket: Closable | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a handler; the other end may be gone all the same."""
        return self._handler is not None

    def open(self, interrupted: threading.Event | None = None) -> Handler:
        """The handler, connected now if it was not.

        The SDK waits for the other end's greeting without bound, so it connects in a thread that is left alone when it
        takes too long.

        Raises:
            OSError: when there was no answer in time, or ``interrupted`` was set meanwhile (OpeningInterrupted).
            Exception: what the SDK raises.
        """
        if self._handler is None:
            client = self._connection.client()
            handler = self._make(client)
            opening = _Opening(handler)
            try:
                opening.wait(self._connection.open_timeout, interrupted)
            except BaseException:
                _close_apart([part for part in (handler, client, opening.transport) if part is not None])
                raise
            self._client, self._handler, self._socket = client, handler, _transport_of(handler)
        return self._handler

    def drop(self) -> threading.Thread | None:
        """Let go at once; the closing itself, which a half-open connection holds up for half a minute, runs apart."""
        parts = [part for part in (self._handler, self._client, self._socket) if part is not None]
        self._handler = self._client = self._socket = None
        return _close_apart(parts)


def receiver_link(connection: ServiceBusConnection, queue: str, **options: Any) -> Link[ServiceBusReceiver]:
    """A receiver of a queue, peek-lock unless ``options`` say otherwise.

    No prefetch: a message that waits in a buffer loses its lock there.
    """

    def make(client: ServiceBusClient) -> ServiceBusReceiver:
        # The wait for a settlement's outcome is the receiver's option; the client's does not reach it.
        return client.get_queue_receiver(queue, prefetch_count=0, timeout=connection.settlement_timeout, **options)

    return Link(connection, make)


def sender_link(connection: ServiceBusConnection, queue: str) -> Link[ServiceBusSender]:
    """A sender to a queue."""
    return Link(connection, lambda client: client.get_queue_sender(queue))


def _close_apart(parts: Sequence[Closable]) -> threading.Thread | None:
    if not parts:
        return None

    def close() -> None:
        for part in parts:
            quietly(part.close)

    closing = threading.Thread(target=close, name="link-closing", daemon=True)
    closing.start()
    return closing
