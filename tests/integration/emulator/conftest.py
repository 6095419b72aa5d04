"""A running emulator with a queue of its own, and the real SDK's clients on it.

The SDK's handlers take a second to close (a thread of theirs sleeps), so they close behind the tests' backs.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusReceivedMessage, ServiceBusReceiver, ServiceBusSender

from testing.emulator import EmulatorConfig, QueueConfig, ServiceBusEmulator

QUEUE = "tasks"
LOCK = timedelta(seconds=30)


@dataclass
class Bench:
    """An emulator and shortcuts to the SDK. What it opens is closed after the test."""

    emulator: ServiceBusEmulator
    opened: list[Any] = field(default_factory=list)

    def client(self, **options: Any) -> ServiceBusClient:
        options = {"retry_total": 0, "keep_alive": 0, "socket_timeout": 0.02} | options
        client = ServiceBusClient.from_connection_string(self.emulator.connection_string, **options)
        self.opened.append(client)
        return client

    def sender(self, queue: str = QUEUE, **options: Any) -> ServiceBusSender:
        sender = self.client(**options).get_queue_sender(queue)
        self.opened.append(sender)
        return sender

    def receiver(
        self, queue: str = QUEUE, client_options: dict[str, Any] | None = None, **options: Any
    ) -> ServiceBusReceiver:
        receiver = self.client(**(client_options or {})).get_queue_receiver(queue, **options)
        self.opened.append(receiver)
        return receiver

    def open_receiver(self, queue: str = QUEUE, **options: Any) -> ServiceBusReceiver:
        """A receiver whose link is open already, so that a short wait is not spent on opening it."""
        receiver = self.receiver(queue, **options)
        receiver.__enter__()
        return receiver

    def send(self, *bodies: str, queue: str = QUEUE) -> None:
        for body in bodies:
            self.emulator.send(queue, body, message_id=body)

    def close(self) -> None:
        self.emulator.heal()
        with ThreadPoolExecutor(max(1, len(self.opened))) as pool:
            pool.map(_close, self.opened)
        self.emulator.stop()


def _close(one: Any) -> None:
    with contextlib.suppress(Exception):
        one.close()


def receive(receiver: ServiceBusReceiver, count: int = 1, wait: float = 5) -> list[ServiceBusReceivedMessage]:
    """Exactly ``count`` messages, however the SDK portions them."""
    found: list[ServiceBusReceivedMessage] = []
    while len(found) < count:
        more = receiver.receive_messages(count - len(found), max_wait_time=wait)
        assert more, f"{len(found)} of {count} messages came"
        found += more
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After a reset the SDK (7.15.0) forgets its socket: its connection is in state END, where close() does nothing."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(scope="module")
def closing() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        gc.collect()


@pytest.fixture
def config() -> EmulatorConfig:
    return EmulatorConfig(
        queues=(
            QueueConfig(name=QUEUE, lock_duration=LOCK, max_delivery_count=3),
            QueueConfig(name="once", requires_duplicate_detection=True),
            QueueConfig(
                name="brief",
                default_message_time_to_live=timedelta(seconds=60),
                dead_lettering_on_message_expiration=True,
            ),
        ),
    )


@pytest.fixture
def bench(config: EmulatorConfig, closing: ThreadPoolExecutor) -> Iterator[Bench]:
    bench = Bench(ServiceBusEmulator(config).start())
    yield bench
    closing.submit(bench.close)
