"""A Service Bus namespace on loopback: an AMQP 1.0 broker that the unmodified azure-servicebus SDK talks to."""

from testing.emulator.config import DEFAULT_QUEUES, EmulatorConfig, QueueConfig, load_config, parse_config
from testing.emulator.emulator import ServiceBusEmulator
from testing.emulator.process import run
from testing.emulator.records import (
    DeliveryRecord,
    MessageState,
    QueueCounts,
    RenewalRecord,
    SettlementRecord,
    StoredMessage,
)

__all__ = [
    "DEFAULT_QUEUES",
    "DeliveryRecord",
    "EmulatorConfig",
    "MessageState",
    "QueueConfig",
    "QueueCounts",
    "RenewalRecord",
    "ServiceBusEmulator",
    "SettlementRecord",
    "StoredMessage",
    "load_config",
    "parse_config",
    "run",
]
