"""TaskSource contract: what every transport's source, deliveries and dispatcher must do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from core.messages import JobMessage, Message, StageComplete, TaskMessage, encode
from tests.contract.sources import LOCK, MAX_DELIVERIES, SourceHarness
from transports.base import Complete, DeadLetter, Delivery, DeliveryLost, Retry, Sent, TaskSource

SECOND = timedelta(seconds=1)
AGAIN = Retry(timedelta(0))


def job(number: int = 1) -> JobMessage:
    return JobMessage(job_id=f"job-{number}", job_type="demo")


def task(number: int = 1) -> TaskMessage:
    return TaskMessage(
        task_id=f"task-{number}", parent_job_id="job-1", job_type="demo", task_type="work", stage=1, task_index=number
    )


def receive(harness: SourceHarness, source: TaskSource) -> Delivery:
    delivery = source.receive(harness.receive_timeout)
    assert delivery is not None
    return delivery


def nothing(harness: SourceHarness, source: TaskSource) -> bool:
    return source.receive(harness.receive_timeout) is None


def needs(harness: SourceHarness, ability: str) -> None:
    if not getattr(harness, ability):
        pytest.skip(f"{type(harness).__name__} declares no {ability}")


def needs_a_clock(harness: SourceHarness) -> None:
    needs(harness, "has_lock")
    if harness.clock_is_real:
        pytest.skip(f"{type(harness).__name__} declares a real clock")


def test_an_empty_queue_gives_none_within_the_timeout(harness: SourceHarness) -> None:
    with harness.source() as source:
        started = time.monotonic()
        assert source.receive(timedelta(milliseconds=20)) is None
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "message",
    [
        job(),
        JobMessage(job_id="j", job_type="demo", traceparent="00-1-2-01"),
        task(),
        StageComplete(
            job_id="j",
            job_type="demo",
            completed_stage=2,
            completed_at=datetime(2026, 1, 2, tzinfo=UTC),
            completed_by="w",
        ),
    ],
    ids=["job", "traced", "task", "stage_complete"],
)
def test_a_message_arrives_as_it_was_sent(harness: SourceHarness, message: Message) -> None:
    with harness.source() as source:
        assert list(harness.dispatcher().dispatch([message])) == [Sent()]
        delivery = receive(harness, source)
        assert delivery.message == message
        assert delivery.delivery_count == 1
        delivery.settle(Complete())


def test_every_message_of_a_batch_arrives(harness: SourceHarness) -> None:
    sent = [task(number) for number in range(100)]
    with harness.source() as source:
        assert list(harness.dispatcher().dispatch(sent)) == [Sent()] * 100
        received = []
        for _ in sent:
            delivery = receive(harness, source)
            received.append(delivery.message)
            delivery.settle(Complete())
        assert Counter(m.task_id for m in received if isinstance(m, TaskMessage)) == Counter(m.task_id for m in sent)
        assert nothing(harness, source)


def test_an_empty_batch_sends_nothing(harness: SourceHarness) -> None:
    with harness.source() as source:
        assert list(harness.dispatcher().dispatch([])) == []
        assert nothing(harness, source)


def test_a_leased_message_is_invisible_to_others(harness: SourceHarness) -> None:
    with harness.source() as first, harness.source() as second:
        harness.send(job())
        delivery = receive(harness, first)
        assert nothing(harness, second)
        assert nothing(harness, first)
        delivery.settle(Complete())


def test_a_completed_message_never_comes_again(harness: SourceHarness) -> None:
    with harness.source() as source:
        harness.send(job())
        receive(harness, source).settle(Complete())
        if not harness.clock_is_real:
            harness.advance(LOCK * 10)
        assert nothing(harness, source)
    assert list(harness.dead_letters()) == []


def test_an_unsettled_message_comes_again_after_its_lock_with_a_higher_count(harness: SourceHarness) -> None:
    needs_a_clock(harness)
    with harness.source() as source:
        harness.send(job())
        receive(harness, source)
        harness.advance(LOCK - SECOND)
        assert nothing(harness, source)
        harness.advance(2 * SECOND)
        again = receive(harness, source)
        assert (again.message, again.delivery_count) == (job(), 2)
        again.settle(Complete())


def test_a_renewal_extends_the_lock_from_now(harness: SourceHarness) -> None:
    needs_a_clock(harness)
    with harness.source() as source:
        harness.send(job())
        delivery = receive(harness, source)
        for _ in range(4):
            harness.advance(LOCK - SECOND)
            delivery.renew()
            assert nothing(harness, source)
        delivery.settle(Complete())
        harness.advance(LOCK * 2)
        assert nothing(harness, source)


def test_a_lapsed_delivery_can_be_neither_renewed_nor_settled(harness: SourceHarness) -> None:
    needs_a_clock(harness)
    with harness.source() as source, harness.source() as other:
        harness.send(job())
        lapsed = receive(harness, source)
        harness.advance(LOCK + SECOND)
        current = receive(harness, other)
        with pytest.raises(DeliveryLost):
            lapsed.renew()
        with pytest.raises(DeliveryLost):
            lapsed.settle(Complete())
        current.settle(Complete())
        harness.advance(LOCK + SECOND)
        assert nothing(harness, source)


def test_a_delivery_is_settled_once(harness: SourceHarness) -> None:
    with harness.source() as source:
        harness.send(job())
        delivery = receive(harness, source)
        delivery.settle(Complete())
        with pytest.raises(DeliveryLost):
            delivery.settle(AGAIN)
        assert nothing(harness, source)


def test_retry_without_delay_comes_at_once(harness: SourceHarness) -> None:
    with harness.source() as source:
        harness.send(job())
        receive(harness, source).settle(AGAIN)
        again = receive(harness, source)
        assert again.message == job()
        if harness.counts_survive_retry:
            assert again.delivery_count == 2
        again.settle(Complete())


def test_retry_comes_not_before_its_delay(harness: SourceHarness) -> None:
    needs_a_clock(harness)
    with harness.source() as source:
        harness.send(job())
        receive(harness, source).settle(Retry(timedelta(minutes=30)))
        harness.advance(timedelta(minutes=29))
        assert nothing(harness, source)
        harness.advance(timedelta(minutes=2))
        again = receive(harness, source)
        assert again.message == job()
        again.settle(Complete())
        assert nothing(harness, source)


def test_a_delayed_message_does_not_hold_up_others(harness: SourceHarness) -> None:
    with harness.source() as source:
        harness.send(job(1))
        receive(harness, source).settle(Retry(timedelta(hours=1)))
        harness.send(job(2))
        delivery = receive(harness, source)
        assert delivery.message == job(2)
        delivery.settle(Complete())


def test_a_dead_letter_never_comes_again_and_is_listed_with_its_reason(harness: SourceHarness) -> None:
    with harness.source() as source:
        harness.send(job())
        receive(harness, source).settle(DeadLetter("UnknownJob", "the store knows no job job-1"))
        if not harness.clock_is_real:
            harness.advance(LOCK * 10)
        assert nothing(harness, source)
        (letter,) = harness.dead_letters()
        assert (letter.reason, letter.detail) == ("UnknownJob", "the store knows no job job-1")
        assert letter.body == encode(job())
        assert source.status().dead_lettered == 1


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"\xff\xfe", b"[]", b'{"message_type": "other"}', b'{"message_type": "task"}']
)
def test_what_is_no_message_is_dead_lettered_and_the_next_one_arrives(harness: SourceHarness, body: bytes) -> None:
    needs(harness, "has_raw_messages")
    with harness.source() as source:
        harness.send_raw(body)
        harness.send(job(2))
        delivery = receive(harness, source)
        assert delivery.message == job(2)
        delivery.settle(Complete())
        (letter,) = harness.dead_letters()
        assert (letter.body, letter.reason) == (body, "MalformedMessage")
        assert letter.detail


def test_a_message_that_is_never_settled_ends_as_a_dead_letter(harness: SourceHarness) -> None:
    needs_a_clock(harness)
    with harness.source() as source:
        harness.send(job())
        for count in range(1, MAX_DELIVERIES + 1):
            assert receive(harness, source).delivery_count == count
            harness.advance(LOCK + SECOND)
        assert nothing(harness, source)
        (letter,) = harness.dead_letters()
        assert letter.reason == "MaxDeliveryCountExceeded"


def test_closing_gives_back_what_was_leased(harness: SourceHarness) -> None:
    first = harness.source()
    first.open()
    harness.send(job())
    held = receive(harness, first)
    first.close()
    first.close()
    with pytest.raises(DeliveryLost):
        held.settle(Complete())
    with harness.source() as second:
        if not harness.clock_is_real:
            harness.advance(LOCK + SECOND)
        again = receive(harness, second)
        assert again.message == job()
        again.settle(Complete())


def test_a_source_wakes_from_a_long_poll(harness: SourceHarness) -> None:
    with harness.source() as source:
        received: list[Delivery | None] = []
        polling = threading.Thread(target=lambda: received.append(source.receive(timedelta(seconds=60))))
        started = time.monotonic()
        polling.start()
        while polling.is_alive() and time.monotonic() - started < 30:
            source.wake()
            polling.join(0.01)
        assert received == [None]


def test_a_waiting_source_gets_a_message_when_it_comes(harness: SourceHarness) -> None:
    with harness.source() as source:
        received: list[Delivery | None] = []
        polling = threading.Thread(target=lambda: received.append(source.receive(timedelta(seconds=60))))
        polling.start()
        harness.send(job())
        polling.join(30)
        (delivery,) = received
        assert delivery is not None
        delivery.settle(Complete())


def test_two_consumers_never_hold_one_message(harness: SourceHarness) -> None:
    count = 200
    harness.dispatcher().dispatch([task(number) for number in range(count)])
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def consume(source: TaskSource) -> None:
        while (delivery := source.receive(timedelta(milliseconds=50) + harness.receive_timeout)) is not None:
            assert isinstance(delivery.message, TaskMessage)
            with lock:
                seen[delivery.message.task_id] += 1
            delivery.settle(Complete())

    with ExitStack() as stack:
        sources = [stack.enter_context(harness.source()) for _ in range(4)]
        threads = [threading.Thread(target=consume, args=[source]) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(seen) == count
    assert set(seen.values()) == {1}


def test_the_status_counts_what_was_done(harness: SourceHarness) -> None:
    source = harness.source()
    source.open()
    assert source.status().connected
    for number in range(3):
        harness.send(job(number))
    receive(harness, source).settle(Complete())
    receive(harness, source).settle(Retry(timedelta(hours=1)))
    receive(harness, source).settle(DeadLetter("R", "d"))
    status = source.status()
    assert (status.received, status.completed, status.retried, status.dead_lettered) == (3, 1, 1, 1)
    assert status.last_poll_at is not None
    assert status.last_error is None
    source.close()
    assert not source.status().connected
