"""How deep the broker's queues are: measured over AMQP without taking a message, and shown on ``/system``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.errors import TransportUnavailable
from core.messages import encode
from tests.integration.service_bus.conftest import QUEUE, Bench, task
from tests.process_support import wait_until
from transports.service_bus.depth import MOST_COUNTED, QueueGauge


def put(bench: Bench, count: int) -> None:
    for number in range(count):
        bench.emulator.send(QUEUE, encode(task(number)))


def test_an_empty_queue_has_nothing_and_no_oldest(bench: Bench) -> None:
    depth = QueueGauge(bench.connection(), QUEUE).measure()
    assert (depth.queue, depth.waiting, depth.scheduled, depth.more) == (QUEUE, 0, 0, False)
    assert depth.oldest is None


def test_what_waits_is_counted_with_its_oldest_and_none_of_it_is_taken(bench: Bench) -> None:
    began = datetime.now(UTC)
    put(bench, 300)
    depth = QueueGauge(bench.connection(), QUEUE).measure()
    assert (depth.waiting, depth.more) == (300, False)
    assert depth.oldest is not None
    assert began - timedelta(seconds=1) <= depth.oldest <= datetime.now(UTC)
    assert bench.emulator.counts(QUEUE).active == 300
    assert bench.emulator.deliveries(QUEUE) == []


def test_a_message_that_is_handled_still_counts(bench: Bench) -> None:
    put(bench, 2)
    assert bench.source().receive(timedelta(seconds=5)) is not None
    assert QueueGauge(bench.connection(), QUEUE).measure().waiting == 2


def test_scheduled_messages_are_counted_apart(bench: Bench) -> None:
    put(bench, 1)
    with (
        bench.connection().client() as client,
        client.get_queue_sender(QUEUE) as sender,
    ):
        sender.schedule_messages(ServiceBusMessage(b"later"), datetime.now(UTC) + timedelta(hours=1))
    depth = QueueGauge(bench.connection(), QUEUE).measure()
    assert (depth.waiting, depth.scheduled) == (1, 1)


def test_of_a_long_queue_only_so_much_is_looked_at(bench: Bench) -> None:
    put(bench, MOST_COUNTED + 10)
    depth = QueueGauge(bench.connection(), QUEUE).measure()
    assert (depth.waiting, depth.more) == (MOST_COUNTED, True)


def test_a_broker_that_is_away_is_an_error_that_names_the_queue(bench: Bench) -> None:
    connection = bench.connection(open_timeout=2)
    bench.emulator.stop()
    with pytest.raises(TransportUnavailable, match=QUEUE):
        QueueGauge(connection, QUEUE).measure()


@pytest.fixture
def client(bench: Bench, database_url: str, settings: Settings) -> Iterator[TestClient]:
    """An orchestrator whose other two queues are not on the broker."""
    read = Settings.from_env({"SERVICE_BUS_CONNECTION_STRING": bench.emulator.connection_string})
    configured = settings.model_copy(
        update={
            "docker_orchestration_mode": OrchestrationMode.SERVICE_BUS,
            "service_bus_connection_string": read.service_bus_connection_string,
        }
    )
    application = compose(configured, Role.ORCHESTRATOR, database_url=database_url)
    with TestClient(
        create_app(application, manage_lifecycle=False), base_url="http://127.0.0.1", headers={"Accept": "text/html"}
    ) as client:
        yield client
    application.lifecycle.drain()


def test_the_page_shows_the_depth_of_each_queue_and_says_which_cannot_be_told(bench: Bench, client: TestClient) -> None:
    put(bench, 3)

    def row(queue: str) -> str:
        found = re.search(rf'<tr><th scope="row">{queue}</th>(.*?)</tr>', client.get("/system").text, re.DOTALL)
        assert found is not None
        return found[1]

    assert "looked at" in row(QUEUE) or "<td>3</td>" in row(QUEUE)
    shown = wait_until(lambda: "<td>3</td>" in (found := row(QUEUE)) and found)
    assert "<td>0</td>" in shown
    assert "<time" in shown
    told = wait_until(lambda: "fault" in (found := row("geospatial-jobs")) and found)
    assert "geospatial-jobs cannot be looked at" in told
