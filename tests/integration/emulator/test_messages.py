"""Sending, receiving and looking, with the unmodified SDK."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.exceptions import MessageSizeExceededError, MessagingEntityNotFoundError, ServiceBusError

from testing.emulator import MessageState
from tests.integration.emulator.conftest import QUEUE, Bench, receive


def test_a_message_arrives_as_it_was_sent(bench: Bench) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = ServiceBusMessage(
        b'{"task": 1}',
        message_id="task-1",
        application_properties={"job_id": "j", "traceparent": trace, "attempt": 3, "ratio": 0.5, "id": UUID(int=7)},
        content_type="application/json",
        correlation_id="c",
        subject="raster",
        to="somewhere",
        reply_to="elsewhere",
        time_to_live=timedelta(hours=1),
    )
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    bench.sender().send_messages(sent)
    (got,) = receive(bench.receiver())
    assert b"".join(got.body) == b'{"task": 1}'
    assert got.application_properties == {
        b"job_id": b"j",
        b"traceparent": trace.encode(),
        b"attempt": 3,
        b"ratio": 0.5,
        b"id": UUID(int=7),
    }
    assert (got.message_id, got.content_type, got.correlation_id) == ("task-1", "application/json", "c")
    assert (got.subject, got.to, got.reply_to) == ("raster", "somewhere", "elsewhere")
    assert got.time_to_live == timedelta(hours=1)
    assert (got.sequence_number, got.enqueued_sequence_number, got.delivery_count) == (1, 1, 0)
    assert isinstance(got.lock_token, UUID)
    assert before <= got.enqueued_time_utc <= datetime.now(UTC)
    assert got.locked_until_utc > datetime.now(UTC)


def test_bodies_of_any_size_travel_whole_in_as_many_frames_as_they_take(bench: Bench) -> None:
    bodies = [bytes(index % 251 for index in range(size)) for size in (0, 1, 255, 256, 65_000, 66_000, 200_000)]
    sender = bench.sender()
    for body in bodies:
        sender.send_messages(ServiceBusMessage(body))
    assert [b"".join(message.body) for message in receive(bench.receiver(), len(bodies))] == bodies


def test_a_batch_is_taken_apart_in_order(bench: Bench) -> None:
    sender = bench.sender()
    batch = sender.create_message_batch()
    for index in range(50):
        batch.add_message(ServiceBusMessage(f"body {index}", message_id=str(index)))
    sender.send_messages(batch)
    assert [message.message_id for message in receive(bench.receiver(), 50)] == [str(index) for index in range(50)]


def test_a_batch_of_one_is_not_taken_for_a_message(bench: Bench) -> None:
    sender = bench.sender()
    batch = sender.create_message_batch()
    batch.add_message(ServiceBusMessage("alone", message_id="alone"))
    sender.send_messages(batch)
    (got,) = receive(bench.receiver())
    assert (str(got), got.message_id) == ("alone", "alone")


def test_a_body_that_is_itself_an_encoded_message_is_not_taken_for_a_batch(bench: Bench) -> None:
    encoded = b"\x00\x53\x75\xa0\x05inner"
    bench.sender().send_messages(ServiceBusMessage(encoded))
    assert b"".join(receive(bench.receiver())[0].body) == encoded


def test_an_oversized_message_is_rejected_and_nothing_is_stored(bench: Bench) -> None:
    sender = bench.sender()
    with pytest.raises(MessageSizeExceededError):
        sender.send_messages(ServiceBusMessage(b"x" * 300_000))
    assert bench.emulator.message_count(QUEUE) == 0
    sender.send_messages(ServiceBusMessage("small"))
    assert bench.emulator.message_count(QUEUE) == 1


@pytest.mark.parametrize("role", ["sender", "receiver", "dead letters"])
def test_an_unknown_entity_is_reported_as_missing(bench: Bench, role: str) -> None:
    handlers = {
        "sender": lambda: bench.sender("nowhere"),
        "receiver": lambda: bench.receiver("nowhere"),
        "dead letters": lambda: bench.receiver("nowhere", sub_queue="deadletter"),
    }
    with pytest.raises(MessagingEntityNotFoundError):
        handlers[role]().__enter__()


def test_queue_names_do_not_depend_on_case(bench: Bench) -> None:
    bench.sender(QUEUE.upper()).send_messages(ServiceBusMessage("x"))
    assert bench.emulator.message_count(QUEUE) == 1


def test_a_scheduled_message_waits_for_its_time(bench: Bench) -> None:
    at = datetime.now(UTC) + timedelta(minutes=10)
    sender = bench.sender()
    sender.send_messages(ServiceBusMessage("annotated", scheduled_enqueue_time_utc=at))
    (number,) = sender.schedule_messages(ServiceBusMessage("managed"), at)
    assert bench.emulator.counts(QUEUE).scheduled == 2
    assert [round(one.scheduled_for.timestamp()) for one in bench.emulator.peek(QUEUE)] == [round(at.timestamp())] * 2
    receiver = bench.open_receiver()
    assert receiver.receive_messages(max_wait_time=0.1) == []
    bench.emulator.advance(timedelta(minutes=9))
    assert bench.emulator.counts(QUEUE).scheduled == 2
    bench.emulator.advance(timedelta(minutes=2))
    got = receive(receiver, 2)
    assert sorted(map(str, got)) == ["annotated", "managed"]
    assert all(message.sequence_number > number for message in got), "an activated message is numbered anew"
    assert all(message.scheduled_enqueue_time_utc is not None for message in got)


def test_a_scheduled_message_can_be_cancelled_once(bench: Bench) -> None:
    sender = bench.sender()
    later = datetime.now(UTC) + timedelta(hours=1)
    first, second = sender.schedule_messages([ServiceBusMessage("a"), ServiceBusMessage("b")], later)
    sender.cancel_scheduled_messages(first)
    assert [one.sequence_number for one in bench.emulator.peek(QUEUE)] == [second]
    with pytest.raises(ServiceBusError, match="message-not-found"):
        sender.cancel_scheduled_messages(first)


def test_a_message_scheduled_for_the_past_is_active_at_once(bench: Bench) -> None:
    bench.sender().schedule_messages(ServiceBusMessage("now"), datetime.now(UTC) - timedelta(hours=1))
    assert str(receive(bench.receiver())[0]) == "now"


def test_peek_shows_every_state_and_changes_nothing(bench: Bench) -> None:
    bench.send("locked", "deferred", "active")
    bench.sender().schedule_messages(ServiceBusMessage("scheduled"), datetime.now(UTC) + timedelta(hours=1))
    receiver = bench.receiver()
    receiver.defer_message(receive(receiver, 2)[1])
    before = bench.emulator.counts(QUEUE)
    peeked = receiver.peek_messages(10, sequence_number=1)
    assert [str(message) for message in peeked] == ["locked", "deferred", "active", "scheduled"]
    assert [message.state.name for message in peeked] == ["ACTIVE", "DEFERRED", "ACTIVE", "SCHEDULED"]
    assert [str(one) for one in receiver.peek_messages(1, sequence_number=3)] == ["active"]
    assert receiver.peek_messages(1, sequence_number=99) == []
    assert bench.emulator.counts(QUEUE) == before
    assert {one.state for one in bench.emulator.peek(QUEUE)} == set(MessageState)


def test_receive_and_delete_leaves_nothing(bench: Bench) -> None:
    bench.send("a", "b")
    receiver = bench.receiver(receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    assert [str(message) for message in receive(receiver, 2)] == ["a", "b"]
    assert bench.emulator.message_count(QUEUE) == 0


def test_an_empty_queue_ends_the_wait_without_a_message(bench: Bench) -> None:
    assert bench.open_receiver().receive_messages(max_wait_time=0.1) == []


def test_a_message_reaches_a_receiver_that_already_waits(bench: Bench) -> None:
    receiver = bench.open_receiver()
    sender = bench.sender()
    assert receiver.receive_messages(max_wait_time=0.05) == []
    sender.send_messages(ServiceBusMessage("late"))
    assert str(receive(receiver)[0]) == "late"


def test_duplicate_detection_drops_a_known_message_id_within_its_window(bench: Bench) -> None:
    sender = bench.sender("once")
    for body in ("first", "again"):
        sender.send_messages(ServiceBusMessage(body, message_id="same"))
    assert [one.body for one in bench.emulator.peek("once")] == [b"first"]
    sender.send_messages([ServiceBusMessage("x", message_id="pair"), ServiceBusMessage("y", message_id="pair")])
    assert bench.emulator.message_count("once") == 2
    bench.emulator.advance(timedelta(minutes=2))
    sender.send_messages(ServiceBusMessage("after the window", message_id="same"))
    assert bench.emulator.message_count("once") == 3


def test_without_duplicate_detection_the_same_id_comes_twice(bench: Bench) -> None:
    bench.send("x", "x")
    assert bench.emulator.message_count(QUEUE) == 2


def test_expired_messages_go_or_are_dead_lettered_as_the_queue_says(bench: Bench) -> None:
    bench.send("by the queue", queue="brief")
    bench.sender("brief").send_messages(ServiceBusMessage("by itself", time_to_live=timedelta(seconds=10)))
    bench.sender().send_messages(ServiceBusMessage("dropped", time_to_live=timedelta(seconds=10)))
    bench.emulator.advance(timedelta(seconds=11))
    assert bench.emulator.counts(QUEUE).total == bench.emulator.counts(QUEUE).dead_letter == 0
    assert [one.body for one in bench.emulator.dead_letters("brief")] == [b"by itself"]
    bench.emulator.advance(timedelta(seconds=50))
    assert [one.dead_letter_reason for one in bench.emulator.dead_letters("brief")] == ["TTLExpiredException"] * 2


def test_purging_empties_a_queue_even_of_what_is_locked(bench: Bench) -> None:
    bench.send("a", "b")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    assert bench.emulator.purge(QUEUE) == 2
    assert bench.emulator.message_count(QUEUE) == 0
    with pytest.raises(ServiceBusError, match="message-lock-lost"):
        receiver.complete_message(message)


def test_an_unknown_queue_is_named_in_the_error(bench: Bench) -> None:
    with pytest.raises(LookupError, match=r"no queue is called 'nope'; there are .*tasks"):
        bench.emulator.counts("nope")
