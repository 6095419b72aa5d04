"""What bites in the SDK (7.15.0) and in its surroundings, each trap once; see docs/service-bus.md."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.exceptions import MessageSizeExceededError

from core.messages import TaskMessage
from tests.integration.service_bus.conftest import LOCK, QUEUE, Bench, receive, task
from transports.base import Complete, Refused, Sent
from transports.service_bus import dispatcher as dispatcher_module

SECOND = timedelta(seconds=1)


def test_several_locks_outlive_a_dropped_connection(bench: Bench) -> None:
    """The SDK's own renewer silently forgets all but one of them."""
    bench.put(1, 2, 3)
    source = bench.source()
    deliveries = [receive(source) for _ in range(3)]
    for _ in range(3):
        bench.emulator.advance(LOCK - 2 * SECOND)
        for delivery in deliveries:
            delivery.renew()
        bench.emulator.drop_connections()
    for delivery in deliveries:
        delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0


def test_a_lock_is_to_be_renewed_at_a_third_not_in_its_last_seconds(bench: Bench) -> None:
    bench.put()
    following = receive(bench.source()).renew()
    assert LOCK / 4 < following < LOCK / 3 + SECOND / 10  # the service rounds to milliseconds


def test_a_service_that_is_away_is_asked_again_before_the_lock_ends(bench: Bench) -> None:
    bench.put()
    delivery = receive(bench.source())
    bench.emulator.refuse_connections()
    bench.emulator.drop_connections()
    assert SECOND <= delivery.renew() < LOCK / 3 + SECOND / 10
    bench.emulator.accept_connections()
    delivery.settle(Complete())


def test_a_busy_source_holds_no_second_message(bench: Bench) -> None:
    """A prefetched message loses its lock while the first one is worked on."""
    bench.put(1, 2)
    source = bench.source()
    first = receive(source)
    counts = bench.emulator.counts(QUEUE)
    assert (counts.locked, counts.active) == (1, 1)
    other = bench.source()
    assert receive(other).message == task(2)
    first.settle(Complete())


def test_a_namespace_that_takes_connections_and_says_nothing_is_a_state(bench: Bench) -> None:
    """The SDK waits for a greeting without bound."""
    bench.put()
    bench.emulator.blackhole()
    began = time.monotonic()
    source = bench.source(connection=bench.connection(open_timeout=1))
    assert source.receive(SECOND) is None
    assert time.monotonic() - began < 15
    status = source.status()
    assert not status.connected
    assert "no answer to the connection within 1 s" in (status.last_error or "")
    bench.emulator.heal()
    receive(source).settle(Complete())
    assert source.status().connected
    assert bench.emulator.message_count(QUEUE) == 0


def test_a_stop_ends_an_opening_that_hangs(bench: Bench) -> None:
    source = bench.source()
    bench.emulator.drop_connections()
    bench.emulator.blackhole()
    ended = threading.Event()

    def poll() -> None:
        for _ in range(2):  # the first meets the reset, the second hangs in opening
            source.receive(timedelta(seconds=60))
        ended.set()

    threading.Thread(target=poll, daemon=True).start()
    assert not ended.wait(1.5)
    began = time.monotonic()
    source.wake()
    if not ended.wait(1):
        source.wake()  # the stop came in the pause after the reset
    assert ended.wait(2)
    assert time.monotonic() - began < 3


def test_a_large_queue_that_takes_less_than_its_link_said_refuses_one_message_only() -> None:
    class Sender:
        """As the SDK's: the batch is refused as a whole."""

        def __init__(self) -> None:
            self.sent: list[ServiceBusMessage] = []

        def create_message_batch(self, max_size_in_bytes: int | None = None) -> ServiceBusMessageBatch:
            return ServiceBusMessageBatch(max_size_in_bytes=max_size_in_bytes or 100_000)

        def send_messages(self, message: ServiceBusMessage | ServiceBusMessageBatch) -> None:
            if isinstance(message, ServiceBusMessageBatch) or len(next(iter(message.body))) > 1000:
                raise MessageSizeExceededError(message="too large")
            self.sent.append(message)

    sender = Sender()
    giant = TaskMessage(task_id="g", parent_job_id="j", job_type="x" * 2000, task_type="w", stage=1)
    results: list[object] = [None] * 3
    dispatcher_module._send(sender, [task(1), giant, task(2)], results)  # type: ignore[arg-type]
    assert isinstance(results[1], Refused)
    assert results[0] == results[2] == Sent()
    assert [message.message_id for message in sender.sent] == ["task-1:0", "task-2:0"]


def test_a_scheduled_message_waits_in_the_queue_and_is_another_one_to_duplicate_detection(bench: Bench) -> None:
    dispatcher = bench.dispatcher()
    assert dispatcher.schedule([task(1), task(2)], timedelta(minutes=5)) == [Sent(), Sent()]
    assert bench.emulator.counts(QUEUE).scheduled == 2
    ids = [message.message_id for message in bench.emulator.peek(QUEUE)]
    assert len(set(ids)) == 2
    assert all(name.startswith(f"task-{n}:0:") for n, name in enumerate(ids, start=1))
    source = bench.source()
    assert source.receive(SECOND / 5) is None
    bench.emulator.advance(timedelta(minutes=6))
    assert receive(source).message == task(1)


def test_a_fault_of_the_sender_is_logged_once_and_so_is_its_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    dispatcher = bench.dispatcher()
    bench.emulator.refuse_connections()
    for _ in range(3):
        dispatcher.dispatch([task()])
    bench.emulator.accept_connections()
    assert dispatcher.dispatch([task()]) == [Sent()]
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert (actions.count("queue.unsent"), actions.count("queue.sent")) == (1, 1)
