"""ServiceBusSource and ServiceBusDispatcher when the service, or the way to it, misbehaves."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from datetime import timedelta

import pytest

from core.messages import encode
from tests.integration.service_bus.conftest import QUEUE, Bench, receive, task
from transports.base import Complete, DeliveryLost, Retry, Sent, TryAgain

SECOND = timedelta(seconds=1)


def test_an_unreachable_namespace_is_a_state_and_mends_itself(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.put()
    bench.emulator.refuse_connections()
    source = bench.source()
    for _ in range(3):
        assert source.receive(SECOND) is None
    status = source.status()
    assert not status.connected
    assert status.last_error is not None
    assert len([r for r in caplog.records if getattr(r, "action", "") == "queue.lost"]) == 1
    bench.emulator.accept_connections()
    assert receive(source).message == task()
    assert source.status().connected
    assert source.status().last_error is None


def test_a_missing_queue_is_named_in_the_status(bench: Bench) -> None:
    source = bench.source("no-such-queue")
    assert source.receive(SECOND) is None
    assert "MessagingEntityNotFoundError" in (source.status().last_error or "")


@pytest.mark.parametrize("how", ["drop_connections", "close_connections", "detach_links", "expire_tokens"])
def test_a_poll_survives(bench: Bench, how: str) -> None:
    source = bench.source()
    assert source.receive(SECOND / 10) is None
    getattr(bench.emulator, how)()
    bench.put()
    receive(source).settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0


@pytest.mark.parametrize("how", ["drop_connections", "close_connections", "detach_links", "expire_tokens"])
def test_a_running_tasks_renewal_and_settlement_survive(bench: Bench, how: str) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    delivery.renew()
    getattr(bench.emulator, how)()
    delivery.renew()
    getattr(bench.emulator, how)()
    delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0
    assert source.status().details["lock_renewals"] == 2
    assert source.status().details["locks_lost"] == 0


@pytest.mark.parametrize("how", ["drop_connections", "close_connections"])
def test_a_lost_connection_leaves_no_socket_open(bench: Bench, how: str) -> None:
    source, dispatcher = bench.source(), bench.dispatcher()
    assert source.receive(SECOND / 10) is None
    assert dispatcher.dispatch([task(9)]) == [Sent()]
    receive(source).settle(Complete())
    getattr(bench.emulator, how)()
    assert dispatcher.dispatch([task()]) == [Sent()]
    receive(source).settle(Complete())
    source.close()
    dispatcher.close()
    for thread in threading.enumerate():
        if thread.name == "link-closing":
            thread.join(30)
    del source, dispatcher
    bench.opened.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(one.message) for one in told if issubclass(one.category, ResourceWarning)] == []


def test_a_silent_receiver_is_replaced(bench: Bench) -> None:
    source = bench.source(silent_after=1)
    assert source.receive(SECOND / 10) is None
    bench.emulator.blackhole(new=False)
    bench.put()  # goes down the hole: nobody but the lock's end brings it back
    bench.emulator.wait_until(lambda emulator: bool(emulator.deliveries(QUEUE)))
    bench.emulator.advance(timedelta(seconds=31))
    began = time.monotonic()
    assert receive(source, seconds=0.5).message == task()
    assert time.monotonic() - began < 10


def test_a_renewal_leaves_a_half_open_connection_for_a_new_one(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    delivery.renew()
    bench.emulator.blackhole(new=False)
    delivery.renew()
    assert source.status().details["lock_renewals"] == 2


def test_a_renewal_that_reaches_nobody_is_asked_again_and_the_lock_outlasts_it(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    bench.emulator.refuse_connections()
    bench.emulator.drop_connections()
    delivery.renew()
    assert bench.emulator.renewals(QUEUE) == []
    bench.emulator.accept_connections()
    delivery.renew()
    assert len(bench.emulator.renewals(QUEUE)) == 1
    delivery.settle(Complete())


def test_a_settlement_leaves_a_half_open_connection_for_a_new_one(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    bench.emulator.blackhole(new=False)
    delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0


@pytest.mark.parametrize("drop", [False, True], ids=["swallowed", "reset"])
def test_a_lost_acknowledgement_is_told_and_the_message_is_gone(bench: Bench, drop: bool) -> None:
    bench.put(1, 2)
    source = bench.source()
    delivery = receive(source)
    bench.emulator.lose_next_ack(drop_connection=drop)
    with pytest.raises(DeliveryLost):
        delivery.settle(Complete())
    assert receive(source).message == task(2)
    assert bench.emulator.message_count(QUEUE) == 1


def test_a_copy_is_scheduled_once_however_often_its_completion_is_tried(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    bench.emulator.detach_links()
    delivery.settle(Retry(timedelta(seconds=60)))
    counts = bench.emulator.counts(QUEUE)
    assert (counts.scheduled, counts.total) == (1, 1)


def test_refused_renewals_lose_the_lock_and_nothing_else(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    bench.emulator.refuse_renewals()
    with pytest.raises(DeliveryLost):
        delivery.renew()
    delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0


def test_a_busy_service_is_asked_once_more(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    bench.emulator.server_busy(1)
    delivery.renew()
    assert source.status().details["lock_renewals"] == 1
    delivery.settle(Complete())


def test_nothing_is_lost_while_connections_drop_every_moment(bench: Bench) -> None:
    numbers = range(12)
    for number in numbers:
        bench.emulator.send(QUEUE, encode(task(number)))
    calm = threading.Event()

    def trouble() -> None:
        while not calm.wait(0.7):
            bench.emulator.drop_connections()

    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    seen: set[str] = set()
    source = bench.source()
    deadline = time.monotonic() + 60
    try:
        while len(seen) < len(numbers) and time.monotonic() < deadline:
            delivery = source.receive(SECOND)
            if delivery is None:
                if bench.emulator.counts(QUEUE).active == 0:
                    bench.emulator.advance(timedelta(seconds=31))  # a message cut off on its way comes after its lock
                continue
            seen.add(delivery.message.task_id)  # type: ignore[union-attr]
            try:
                delivery.settle(Complete())
            except DeliveryLost:
                continue
    finally:
        calm.set()
        thread.join()
    assert seen == {f"task-{number}" for number in numbers}
    assert bench.emulator.dead_letters(QUEUE) == []


@pytest.mark.parametrize(
    "how", ["drop_connections", "close_connections", "detach_links", "expire_tokens", "server_busy"]
)
def test_a_dispatcher_whose_link_broke_while_it_was_idle_sends_over_a_new_one(bench: Bench, how: str) -> None:
    dispatcher = bench.dispatcher()
    assert dispatcher.dispatch([task(1)]) == [Sent()]
    getattr(bench.emulator, how)()
    assert dispatcher.dispatch([task(2)]) == [Sent()]
    assert {"task-1:0", "task-2:0"} == {message.message_id for message in bench.emulator.peek(QUEUE)}


def test_a_dispatcher_says_try_again_while_the_service_is_away_and_then_sends(bench: Bench) -> None:
    dispatcher = bench.dispatcher()
    assert dispatcher.dispatch([task(1)]) == [Sent()]
    bench.emulator.refuse_connections()
    bench.emulator.drop_connections()
    assert isinstance(dispatcher.dispatch([task(2)])[0], TryAgain)
    bench.emulator.accept_connections()
    assert dispatcher.dispatch([task(2)]) == [Sent()]
    assert {"task-1:0", "task-2:0"} == {message.message_id for message in bench.emulator.peek(QUEUE)}


def test_a_dispatcher_leaves_a_half_open_connection_for_a_new_one_in_time(bench: Bench) -> None:
    dispatcher = bench.dispatcher()
    assert dispatcher.dispatch([task(1)]) == [Sent()]
    bench.emulator.blackhole(new=False)
    began = time.monotonic()
    assert dispatcher.dispatch([task(2)]) == [Sent()]
    assert time.monotonic() - began < 15


def test_a_lost_send_acknowledgement_is_sent_again_under_the_same_id(bench: Bench) -> None:
    dispatcher = bench.dispatcher()
    bench.emulator.lose_next_send_ack(drop_connection=True)
    assert isinstance(dispatcher.dispatch([task(1)])[0], TryAgain)
    assert dispatcher.dispatch([task(1)]) == [Sent()]
    assert [message.message_id for message in bench.emulator.peek(QUEUE)] == ["task-1:0"] * 2
