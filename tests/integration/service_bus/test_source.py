"""ServiceBusSource on its good days: polling, settling, stopping, bad messages."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from core.messages import encode
from tests.integration.service_bus.conftest import LOCK, QUEUE, Bench, receive, task
from transports.base import Complete, DeadLetter, DeliveryLost, Retry

SECOND = timedelta(seconds=1)


def test_a_retry_with_a_delay_is_a_scheduled_copy_and_a_completion(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    receive(source).settle(Retry(timedelta(seconds=60)))
    assert [record.action for record in bench.emulator.settlements(QUEUE)] == ["complete"]
    counts = bench.emulator.counts(QUEUE)
    assert (counts.active, counts.locked, counts.scheduled) == (0, 0, 1)
    assert source.receive(SECOND / 5) is None
    bench.emulator.advance(timedelta(seconds=61))
    again = receive(source)
    assert again.message == task()
    assert again.delivery_count == 1  # a courtesy costs none of the deliveries a message has


def test_a_retry_at_once_is_an_abandon(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    receive(source).settle(Retry(timedelta(0)))
    assert [record.action for record in bench.emulator.settlements(QUEUE)] == ["abandon"]
    assert receive(source).delivery_count == 2
    assert source.status().details["redelivered"] == 1


def test_a_dead_letter_keeps_its_reason_and_a_bounded_description(bench: Bench) -> None:
    bench.put()
    receive(bench.source()).settle(DeadLetter("UnknownTask", "x" * 10_000))
    (letter,) = bench.emulator.dead_letters(QUEUE)
    assert letter.dead_letter_reason == "UnknownTask"
    assert letter.dead_letter_description == "x" * 4096


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"message_type": "task"}', b'{"message_type": "poem"}'])
def test_a_malformed_body_is_dead_lettered_with_a_reason_and_the_next_arrives(bench: Bench, body: bytes) -> None:
    bench.emulator.send(QUEUE, body)
    bench.put()
    source = bench.source()
    assert receive(source).message == task()
    (letter,) = bench.emulator.dead_letters(QUEUE)
    assert letter.dead_letter_reason == "MalformedMessage"
    assert (letter.dead_letter_description or "").startswith("not a message")
    assert source.status().dead_lettered == 1


def test_a_wake_ends_a_long_poll_within_a_second(bench: Bench) -> None:
    source = bench.source()
    assert source.receive(SECOND / 10) is None
    ended = threading.Event()

    def poll() -> None:
        source.receive(timedelta(seconds=30))
        ended.set()

    threading.Thread(target=poll, daemon=True).start()
    time.sleep(0.2)  # well inside the poll
    began = time.monotonic()
    source.wake()
    assert ended.wait(5)
    assert time.monotonic() - began < 1


def test_closing_gives_back_what_was_pushed_to_an_idle_receiver(bench: Bench) -> None:
    idle = bench.source()
    assert idle.receive(SECOND / 10) is None  # its credit is still out
    bench.put()
    bench.emulator.wait_until(lambda emulator: bool(emulator.deliveries(QUEUE)))
    idle.close()
    bench.emulator.wait_until(lambda emulator: emulator.counts(QUEUE).active == 1)
    began = time.monotonic()
    assert receive(bench.source()).message == task()
    assert time.monotonic() - began < LOCK.total_seconds() / 2


def test_a_renewal_keeps_the_lock_for_many_lock_durations(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    for _ in range(5):
        bench.emulator.advance(LOCK - 2 * SECOND)
        delivery.renew()
    delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0
    assert source.status().details["lock_renewals"] == 5


def test_a_lapsed_lock_can_be_neither_renewed_nor_settled(bench: Bench) -> None:
    bench.put()
    source = bench.source()
    delivery = receive(source)
    bench.emulator.advance(LOCK + SECOND)
    with pytest.raises(DeliveryLost):
        delivery.renew()
    with pytest.raises(DeliveryLost):
        delivery.settle(Complete())
    assert source.status().details["locks_lost"] == 2
    assert receive(bench.source()).message == task()


def test_competing_consumers_never_hold_one_message(bench: Bench) -> None:
    numbers = range(40)
    for number in numbers:
        bench.emulator.send(QUEUE, encode(task(number)))
    seen: list[str] = []

    def consume() -> None:
        source = bench.source()
        while bench.emulator.message_count(QUEUE):
            delivery = source.receive(SECOND / 4)
            if delivery is not None:
                seen.append(delivery.message.task_id)  # type: ignore[union-attr]
                delivery.settle(Complete())

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == sorted(f"task-{number}" for number in numbers)
    assert bench.emulator.dead_letters(QUEUE) == []
