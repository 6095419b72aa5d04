"""Service Bus queues on the official SDK."""

from transports.service_bus.connection import ServiceBusConnection, entra_connection
from transports.service_bus.dispatcher import ServiceBusDispatcher
from transports.service_bus.source import ServiceBusDelivery, ServiceBusSource, SourceOptions

__all__ = [
    "ServiceBusConnection",
    "ServiceBusDelivery",
    "ServiceBusDispatcher",
    "ServiceBusSource",
    "SourceOptions",
    "entra_connection",
]
