"""Service Bus behind the task source contract: the emulator on loopback, reached by the real SDK."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from testing.emulator import EmulatorConfig, QueueConfig, ServiceBusEmulator
from tests.contract.sources import LOCK, MAX_DELIVERIES, DeadLettered, SourceHarness
from transports.base import TaskDispatcher, TaskSource
from transports.service_bus import ServiceBusDispatcher, ServiceBusSource
from transports.service_bus.connection import ServiceBusConnection

QUEUE = "contract"


class ServiceBusHarness(SourceHarness):
    """A queue on the emulator, whose clock stands still but for :meth:`advance`."""

    counts_survive_retry = False  # a delayed retry is a copy, and a copy is delivered for the first time
    receive_timeout = timedelta(seconds=1)

    def __init__(self) -> None:
        queue = QueueConfig(name=QUEUE, lock_duration=LOCK, max_delivery_count=MAX_DELIVERIES)
        began = time.time()
        self.emulator = ServiceBusEmulator(EmulatorConfig(queues=(queue,)), clock=lambda: began).start()
        self._connection = ServiceBusConnection(
            connection_string=self.emulator.connection_string,
            try_timeout=5,
            options={"keep_alive": 0, "socket_timeout": 0.02},  # no second of sleep when a sender closes; shorter reads
        )
        self._dispatcher = ServiceBusDispatcher(self._connection, QUEUE)

    def source(self) -> TaskSource:
        return ServiceBusSource(self._connection, QUEUE)

    def dispatcher(self) -> TaskDispatcher:
        return self._dispatcher

    def send_raw(self, body: bytes) -> None:
        self.emulator.send(QUEUE, body)

    def advance(self, by: timedelta) -> None:
        self.emulator.advance(by)

    def dead_letters(self) -> Sequence[DeadLettered]:
        return [
            DeadLettered(letter.body, letter.dead_letter_reason or "", letter.dead_letter_description or "")
            for letter in self.emulator.dead_letters(QUEUE)
        ]

    def close(self) -> None:
        self._dispatcher.close()
        self.emulator.stop()
