"""An emulator and the project's own source and dispatcher on it, through the real SDK.

The SDK's handlers take a second to close (a thread of theirs sleeps), so they close behind the tests' backs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from core.messages import TaskMessage, encode
from core.retry import Backoff
from testing.emulator import EmulatorConfig, QueueConfig, ServiceBusEmulator
from transports.service_bus import ServiceBusDelivery, ServiceBusDispatcher, ServiceBusSource, SourceOptions
from transports.service_bus.connection import ServiceBusConnection

QUEUE = "long-running-tasks"
LOCK = timedelta(seconds=30)
QUICK = {"keep_alive": 0, "socket_timeout": 0.02}  # no second of sleep when a sender closes; shorter reads


def task(number: int = 1) -> TaskMessage:
    return TaskMessage(
        task_id=f"task-{number}", parent_job_id="job-1", job_type="demo", task_type="work", stage=1, task_index=number
    )


@dataclass
class Bench:
    emulator: ServiceBusEmulator
    closing: ThreadPoolExecutor
    opened: list[ServiceBusSource | ServiceBusDispatcher] = field(default_factory=list)

    def connection(self, *, open_timeout: float = 30.0, try_timeout: float = 1.0) -> ServiceBusConnection:
        return ServiceBusConnection(
            connection_string=self.emulator.connection_string,
            try_timeout=try_timeout,
            settlement_timeout=1.0,
            open_timeout=open_timeout,
            options=QUICK,
        )

    def source(
        self, queue: str = QUEUE, *, silent_after: float = 120, connection: ServiceBusConnection | None = None
    ) -> ServiceBusSource:
        options = SourceOptions(
            silent_after=timedelta(seconds=silent_after),
            backoff=Backoff(base=timedelta(seconds=0.05), cap=timedelta(seconds=0.2)),
        )
        source = ServiceBusSource(connection or self.connection(), queue, options)
        source.open()
        self.opened.append(source)
        return source

    def dispatcher(self, queue: str = QUEUE, *, try_timeout: float = 1.0) -> ServiceBusDispatcher:
        dispatcher = ServiceBusDispatcher(self.connection(try_timeout=try_timeout), queue)
        self.opened.append(dispatcher)
        return dispatcher

    def put(self, *numbers: int) -> None:
        for number in numbers or (1,):
            self.emulator.send(QUEUE, encode(task(number)), message_id=f"task-{number}:0")

    def close(self) -> None:
        self.emulator.heal()
        for one in self.opened:
            with contextlib.suppress(Exception):
                one.close()
        self.emulator.stop()


def receive(source: ServiceBusSource, *, polls: int = 40, seconds: float = 5) -> ServiceBusDelivery:
    """The next delivery, through as many faults as the source mends."""
    for _ in range(polls):
        delivery = source.receive(timedelta(seconds=seconds))
        if delivery is not None:
            return delivery
    raise AssertionError(f"nothing came: {source.status()}")


@pytest.fixture(scope="package")
def closing() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def bench(closing: ThreadPoolExecutor) -> Iterator[Bench]:
    config = EmulatorConfig(queues=(QueueConfig(name=QUEUE, lock_duration=LOCK, max_delivery_count=10),))
    bench = Bench(ServiceBusEmulator(config).start(), closing)
    yield bench
    closing.submit(bench.close)
