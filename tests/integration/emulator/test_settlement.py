"""Settling, by link and by lock token, and what becomes of the message."""

from __future__ import annotations

from datetime import timedelta

import pytest
from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError, MessageNotFoundError

from testing.emulator import QueueCounts
from tests.integration.emulator.conftest import LOCK, QUEUE, Bench, receive

DEAD = f"{QUEUE}/$DeadLetterQueue"


def test_a_completed_message_is_gone(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()
    with pytest.raises(MessageAlreadySettled):
        receiver.complete_message(message)
    bench.emulator.advance(2 * LOCK)
    assert bench.emulator.counts(QUEUE) == QueueCounts()
    assert [one.action for one in bench.emulator.settlements(QUEUE)] == ["complete"]


def test_an_abandoned_message_comes_back_first_and_counts(bench: Bench) -> None:
    bench.send("a", "b")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    token = message.lock_token
    receiver.abandon_message(message)
    (again,) = receive(receiver)
    assert (str(again), again.delivery_count, again.sequence_number) == ("a", 1, message.sequence_number)
    assert again.lock_token != token
    told = [(one.message_id, one.delivery_count, one.lock_token) for one in bench.emulator.deliveries(QUEUE)]
    assert told == [("a", 0, token), ("a", 1, again.lock_token)]


def test_abandoned_and_lost_locks_count_and_the_limit_moves_a_message_to_the_dead_letters(bench: Bench) -> None:
    bench.send("poison")
    receiver = bench.receiver()
    for expected in range(3):
        (message,) = receive(receiver)
        assert message.delivery_count == expected
        if expected == 1:
            bench.emulator.advance(LOCK)
        else:
            receiver.abandon_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(dead_letter=1)
    (dead,) = bench.emulator.dead_letters(QUEUE)
    assert (dead.body, dead.delivery_count, dead.dead_letter_reason) == (b"poison", 3, "MaxDeliveryCountExceeded")
    assert dead.dead_letter_description == "Message could not be consumed after 3 delivery attempts."


def test_a_dead_letter_keeps_reason_description_and_properties(bench: Bench) -> None:
    bench.emulator.send(QUEUE, "bad", message_id="m", application_properties={"job": "j"})
    receiver = bench.receiver()
    receiver.dead_letter_message(receive(receiver)[0], reason="InvalidTask", error_description="no such type")
    dead_receiver = bench.receiver(sub_queue="deadletter")
    (dead,) = receive(dead_receiver)
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("InvalidTask", "no such type")
    assert (dead.dead_letter_source, dead.message_id, dead.application_properties[b"job"]) == (QUEUE, "m", b"j")
    for _ in range(5):
        dead_receiver.abandon_message(dead)
        (dead,) = receive(dead_receiver)
    dead_receiver.renew_message_lock(dead)
    assert bench.emulator.counts(DEAD) == QueueCounts(locked=1)
    dead_receiver.complete_message(dead)
    assert bench.emulator.dead_letters(QUEUE) == []


def test_a_deferred_message_comes_only_by_its_number(bench: Bench) -> None:
    bench.send("later", "next")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    receiver.defer_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1, deferred=1)
    assert str(receive(receiver)[0]) == "next"
    receiver.receive_deferred_messages(message.sequence_number)
    bench.emulator.advance(LOCK)
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1, deferred=1), "it stays deferred when its lock ends"
    (back,) = receiver.receive_deferred_messages(message.sequence_number)
    assert str(back) == "later"
    receiver.renew_message_lock(back)
    receiver.complete_message(back)
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1)
    with pytest.raises(MessageNotFoundError):
        receiver.receive_deferred_messages(message.sequence_number)


def test_every_settlement_works_from_another_connection_by_lock_token(bench: Bench) -> None:
    bench.send("complete", "abandon", "defer", "dead_letter")
    messages = receive(bench.receiver(), 4)
    bench.emulator.drop_connections()
    other = bench.open_receiver()
    for message in messages:
        message._receiver = other
        options = {"reason": "R", "error_description": "D"} if str(message) == "dead_letter" else {}
        getattr(other, f"{message}_message")(message, **options)
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1, deferred=1, dead_letter=1)
    assert [one.action for one in bench.emulator.settlements(QUEUE)] == ["complete", "abandon", "defer", "dead-letter"]
    (dead,) = bench.emulator.dead_letters(QUEUE)
    assert (dead.dead_letter_reason, dead.dead_letter_description) == ("R", "D")


def test_what_a_closing_receiver_had_buffered_is_released_without_counting(bench: Bench) -> None:
    bench.send("a", "b", "c")
    receiver = bench.receiver(prefetch_count=3)
    receive(receiver)
    bench.emulator.wait_until(lambda emulator: emulator.counts(QUEUE).locked == 3)
    receiver.close()
    bench.emulator.wait_until(lambda emulator: emulator.counts(QUEUE) == QueueCounts(active=2, locked=1))
    assert {one.delivery_count for one in bench.emulator.peek(QUEUE)} == {0}


def test_a_settlement_after_the_lock_ended_is_refused(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    bench.emulator.advance(LOCK + timedelta(seconds=1))
    with pytest.raises(MessageLockLostError):
        receiver.renew_message_lock(message)
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1)
    assert bench.emulator.settlements(QUEUE)[0].refused == "com.microsoft:message-lock-lost"
