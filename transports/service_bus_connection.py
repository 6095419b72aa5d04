"""How this process reaches Service Bus: a connection string or an Entra identity, over AMQP or websockets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from core.errors import ConfigurationError, Fault

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.servicebus import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

_TRY_TIMEOUT = 10.0
_SETTLEMENT_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBusConnection:
    """Makes clients. ``connection_string`` wins over ``fqdn``; the credential is asked for once and shared.

    ``try_timeout`` (seconds) bounds one attempt of sending, renewing and linking: on a half-open connection nothing
    else would. ``settlement_timeout`` (seconds) bounds the wait for a settlement's acknowledgement.
    """

    connection_string: str | None = field(default=None, repr=False)
    fqdn: str | None = None
    credential: TokenCredential | None = field(default=None, repr=False)
    websockets: bool = False
    try_timeout: float = _TRY_TIMEOUT
    settlement_timeout: float = _SETTLEMENT_TIMEOUT

    def __post_init__(self) -> None:
        if self.connection_string is None and self.fqdn is None:
            raise ConfigurationError(
                "settings",
                [Fault("SERVICE_BUS_FQDN", "must be set for service_bus mode (or SERVICE_BUS_CONNECTION_STRING)")],
            )
        if self.connection_string is not None and "endpoint=" not in self.connection_string.lower():
            raise ConfigurationError(
                "settings", [Fault("SERVICE_BUS_CONNECTION_STRING", "has no Endpoint=sb://…; part")]
            )

    def client(self) -> ServiceBusClient:
        """A client that tries each operation once: what to do after a fault is decided here, not in the SDK."""
        from azure.servicebus import ServiceBusClient, TransportType

        options: dict[str, Any] = {
            "retry_total": 0,
            "try_timeout": self.try_timeout,
            "transport_type": TransportType.AmqpOverWebsocket if self.websockets else TransportType.Amqp,
        }
        if self.connection_string is not None:
            return ServiceBusClient.from_connection_string(self.connection_string, **options)
        if self.fqdn is None or self.credential is None:
            raise ConfigurationError("settings", [Fault("SERVICE_BUS_FQDN", "needs an Entra credential")])
        return ServiceBusClient(self.fqdn, self.credential, **options)


def entra_connection(fqdn: str, *, websockets: bool) -> ServiceBusConnection:
    """A connection with the machine's identity: workload or managed identity, or a signed-in developer."""
    from azure.identity import DefaultAzureCredential

    return ServiceBusConnection(fqdn=fqdn, credential=DefaultAzureCredential(), websockets=websockets)


def transport_errors() -> tuple[type[Exception], ...]:
    """What the SDK raises when the service or the way to it is at fault.

    ValueError and RuntimeError are among them: a detached link and a handler that was shut down are told so.
    """
    from azure.core.exceptions import AzureError

    return (AzureError, OSError, ValueError, RuntimeError, TypeError, AttributeError)


def quietly(close: Callable[[], object]) -> None:
    """Close something whose other end may be gone."""
    with contextlib.suppress(Exception):  # nothing depends on how a broken connection closes
        close()


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


def socket_of(handler: ServiceBusReceiver | ServiceBusSender) -> Closable | None:
    """What holds the socket of an open receiver or sender; close it last.

    After a reset the SDK (7.15.0) drops its AMQP connection without closing the socket: that connection is in state
    END, where ``close()`` returns early, and the descriptor would stay until the garbage collector comes by.
    """
    transport: Closable | None = getattr(
        getattr(getattr(handler, "_handler", None), "_connection", None), "_transport", None
    )
    return transport
