"""Locks: their end, their renewal, who holds what when several compete, and what survives a connection."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from azure.servicebus import AutoLockRenewer

from testing.emulator import EmulatorConfig, QueueConfig, QueueCounts, ServiceBusEmulator
from tests.integration.emulator.conftest import LOCK, QUEUE, Bench, receive


def test_a_locked_message_is_invisible_until_the_lock_ends(bench: Bench) -> None:
    bench.send("a")
    first, second = bench.receiver(), bench.open_receiver()
    (message,) = receive(first)
    assert second.receive_messages(max_wait_time=0.1) == []
    bench.emulator.advance(LOCK - timedelta(seconds=5))
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)
    bench.emulator.advance(timedelta(seconds=6))
    (again,) = receive(second)
    assert (again.message_id, again.delivery_count) == (message.message_id, 1)


def test_a_lock_ends_by_itself_in_real_time(closing: object) -> None:
    queue = QueueConfig(name=QUEUE, lock_duration=timedelta(milliseconds=150))
    with ServiceBusEmulator(EmulatorConfig(queues=(queue,))) as emulator:
        emulator.send(QUEUE, "a")
        bench = Bench(emulator)
        receive(bench.receiver())
        emulator.wait_until(lambda one: one.counts(QUEUE) == QueueCounts(active=1), timeout=2)
        bench.close()


def test_renewing_holds_a_message_for_as_long_as_one_likes(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    token = message.lock_token
    ends = [receiver.renew_message_lock(message)]
    for _ in range(5):
        bench.emulator.advance(LOCK - timedelta(seconds=1))
        ends.append(receiver.renew_message_lock(message))
    assert all(later > earlier for earlier, later in pairwise(ends))
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()
    renewals = bench.emulator.renewals(QUEUE)
    assert [one.refused for one in renewals] == [None] * 6
    assert {one.lock_token for one in renewals} == {token}


def test_a_second_receiver_renews_without_taking_messages(bench: Bench) -> None:
    bench.send("a", "b")
    receiver, keeper = bench.receiver(), bench.open_receiver()
    (message,) = receive(receiver)
    bench.emulator.advance(LOCK / 2)
    until = keeper.renew_message_lock(message)
    assert until - datetime.now(UTC) > LOCK
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1, locked=1)


def test_a_lock_outlives_its_connection(bench: Bench) -> None:
    bench.send("a")
    (message,) = receive(bench.receiver())
    bench.emulator.drop_connections()
    bench.emulator.wait_until(lambda emulator: emulator.connections() == 0)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)
    keeper = bench.open_receiver()
    keeper.renew_message_lock(message)
    message._receiver = keeper
    keeper.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()


@pytest.mark.slow
def test_the_sdks_own_renewer_keeps_a_lock(closing: object) -> None:
    queue = QueueConfig(name=QUEUE, lock_duration=timedelta(seconds=1))
    with ServiceBusEmulator(EmulatorConfig(queues=(queue,))) as emulator, AutoLockRenewer() as renewer:
        emulator.send(QUEUE, "a")
        bench = Bench(emulator)
        receiver = bench.receiver()
        (message,) = receive(receiver)
        renewer.register(receiver, message, max_lock_renewal_duration=30)
        emulator.wait_until(lambda one: len(one.renewals(QUEUE)) >= 2)
        receiver.complete_message(message)
        assert emulator.counts(QUEUE) == QueueCounts()
        bench.close()


def test_competing_receivers_share_the_work_and_never_a_message(bench: Bench) -> None:
    total, workers = 60, 4
    bench.send(*[str(number) for number in range(total)])
    handled: list[str] = []
    barrier = threading.Barrier(workers)

    def work() -> None:
        receiver = bench.open_receiver()
        barrier.wait(10)
        while messages := receiver.receive_messages(max_wait_time=0.3):
            handled.extend(str(message) for message in messages)
            receiver.complete_message(messages[0])

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(handled, key=int) == [str(number) for number in range(total)]
    assert bench.emulator.counts(QUEUE) == QueueCounts()
    assert set(Counter(one.message_id for one in bench.emulator.deliveries(QUEUE)).values()) == {1}
