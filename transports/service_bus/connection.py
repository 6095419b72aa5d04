"""How this process reaches Service Bus: a connection string or an Entra identity, over AMQP or websockets."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.errors import ConfigurationError, Fault

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.servicebus import ServiceBusClient

_TRY_TIMEOUT = 10.0
_SETTLEMENT_TIMEOUT = 15.0
_OPEN_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBusConnection:
    """Makes clients. ``connection_string`` wins over ``fqdn``; the credential is asked for once and shared.

    ``try_timeout`` (seconds) bounds one attempt of sending and renewing, ``open_timeout`` one of connecting: on a
    half-open connection nothing else would. ``settlement_timeout`` (seconds) bounds the wait for a settlement's
    acknowledgement. ``options`` are further keywords of ``ServiceBusClient``: a proxy, a custom endpoint, a CA bundle.
    """

    connection_string: str | None = field(default=None, repr=False)
    fqdn: str | None = None
    credential: TokenCredential | None = field(default=None, repr=False)
    websockets: bool = False
    try_timeout: float = _TRY_TIMEOUT
    settlement_timeout: float = _SETTLEMENT_TIMEOUT
    open_timeout: float = _OPEN_TIMEOUT
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

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
            **self.options,
        }
        if self.connection_string is not None:
            # The SDK takes "true" for an emulator and "True" for the service.
            text = re.sub(r"(?i)\b(UseDevelopmentEmulator)\s*=\s*true\b", r"\1=true", self.connection_string)
            return ServiceBusClient.from_connection_string(text, **options)
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


def describe(error: BaseException | None) -> str:
    """An error of the SDK in one bounded line: its type and the first line of its text."""
    if error is None:
        return "unknown"
    name = type(error).__name__
    lines = str(error).splitlines()
    return f"{name}: {lines[0][:500]}" if lines and lines[0] else name
