"""Faults on demand, and what the SDK makes of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import (
    MessageLockLostError,
    OperationTimeoutError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from testing.emulator import QueueCounts, ServiceBusEmulator
from tests.integration.emulator.conftest import QUEUE, Bench, receive


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    """The SDK's call in a thread of its own: some of them never come back while the fault lasts."""

    def run() -> None:
        try:
            work()
        except (ServiceBusError, ValueError, OSError):
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("end", [ServiceBusEmulator.drop_connections, ServiceBusEmulator.close_connections])
def test_a_lost_connection_ends_the_call_but_not_the_lock(
    bench: Bench, end: Callable[[ServiceBusEmulator], int]
) -> None:
    bench.send("a", "b")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    assert end(bench.emulator) == 1
    bench.emulator.wait_until(lambda emulator: emulator.connections() == 0)
    with pytest.raises(ServiceBusError):
        receiver.renew_message_lock(message)
    with pytest.raises(ValueError, match="handler has already been shutdown"):
        receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1, locked=1)
    assert str(receive(receiver)[0]) == "b", "polling opens the receiver again"
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)


def test_with_retries_the_sdk_reconnects_by_itself(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver(client_options={"retry_total": 3, "retry_backoff_factor": 0.01})
    (message,) = receive(receiver)
    bench.emulator.drop_connections()
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()


def test_a_link_detached_before_complete_breaks_the_receiver_and_a_fresh_one_settles(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    assert bench.emulator.detach_links() == 1
    receiver.renew_message_lock(message)
    with pytest.raises(ServiceBusError, match="Link already closed"):
        receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)
    message._receiver = fresh = bench.open_receiver()
    fresh.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()


def test_a_disposition_that_crosses_a_detach_is_settled_through_management(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    bench.emulator.detach_links()
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()


def test_polling_opens_a_new_link_after_one_error(bench: Bench) -> None:
    receiver = bench.open_receiver()
    bench.emulator.detach_links()
    with pytest.raises(ServiceBusError):
        receiver.receive_messages(max_wait_time=2)
    bench.send("a")
    assert str(receive(receiver)[0]) == "a"


def test_a_link_detached_as_busy_stays_broken_in_the_sdk_and_a_fresh_receiver_works(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.open_receiver()
    bench.emulator.detach_links("com.microsoft:server-busy", "The server is busy")
    for _ in range(2):
        with pytest.raises(ServiceBusServerBusyError):
            receiver.receive_messages(max_wait_time=1)
    assert str(receive(bench.receiver())[0]) == "a"


def test_refused_renewals_are_lost_locks_to_the_sdk_and_the_lock_goes_on(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    bench.emulator.refuse_renewals(1)
    with pytest.raises(MessageLockLostError):
        receiver.renew_message_lock(message)
    receiver.renew_message_lock(message)
    bench.emulator.refuse_renewals()
    for _ in range(3):
        with pytest.raises(MessageLockLostError):
            receiver.renew_message_lock(message)
    bench.emulator.refuse_renewals(0)
    receiver.renew_message_lock(message)
    refused = [one.refused is not None for one in bench.emulator.renewals(QUEUE)]
    assert refused == [True, False, True, True, True, False]


def test_a_lost_acknowledgement_leaves_the_outcome_unknown_and_the_message_gone(bench: Bench) -> None:
    bench.send("by link", "by token")
    receiver = bench.receiver()
    first, second = receive(receiver, 2)
    bench.emulator.lose_next_ack(drop_connection=True)
    with pytest.raises(ServiceBusConnectionError):
        receiver.complete_message(first)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)
    first._receiver = second._receiver = fresh = bench.open_receiver()
    with pytest.raises(MessageLockLostError):
        fresh.complete_message(first)
    bench.emulator.lose_next_ack(drop_connection=True)
    with pytest.raises(ServiceBusError):
        fresh.complete_message(second)
    assert bench.emulator.counts(QUEUE) == QueueCounts()
    assert [one.refused is None for one in bench.emulator.settlements(QUEUE)] == [True, False, True]


def test_an_acknowledgement_lost_in_silence_keeps_complete_waiting(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    bench.emulator.lose_next_ack()
    waiting = in_thread(lambda: receiver.complete_message(message))
    bench.emulator.wait_until(lambda emulator: emulator.counts(QUEUE) == QueueCounts())
    waiting.join(0.3)
    assert waiting.is_alive(), "the SDK waits a minute for an outcome"
    bench.emulator.drop_connections()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_send_whose_acknowledgement_is_lost_is_sent_twice_by_a_retry(bench: Bench) -> None:
    sender = bench.sender(retry_total=2, retry_backoff_factor=0.01)
    sender.__enter__()
    bench.emulator.lose_next_send_ack(drop_connection=True)
    sender.send_messages(ServiceBusMessage("a", message_id="a"))
    assert [one.message_id for one in bench.emulator.peek(QUEUE)] == ["a", "a"]


def test_a_busy_server_refuses_sends_and_renewals_for_a_while(bench: Bench) -> None:
    bench.send("a")
    receiver, sender = bench.receiver(), bench.sender()
    (message,) = receive(receiver)
    bench.emulator.server_busy(2)
    with pytest.raises(ServiceBusServerBusyError):
        sender.send_messages(ServiceBusMessage("x"))
    with pytest.raises(ServiceBusServerBusyError):
        receiver.renew_message_lock(message)
    sender.send_messages(ServiceBusMessage("y"))
    receiver.renew_message_lock(message)


def test_refused_connections_fail_at_once_and_come_back_on_the_same_port(bench: Bench) -> None:
    port = bench.emulator.port
    sender = bench.sender()
    bench.emulator.refuse_connections()
    with pytest.raises(ServiceBusConnectionError, match="refused"):
        sender.send_messages(ServiceBusMessage("x"))
    bench.emulator.accept_connections()
    sender.send_messages(ServiceBusMessage("x"))
    assert bench.emulator.port == port
    bench.emulator.refuse_connections()
    sender.send_messages(ServiceBusMessage("x"))
    assert bench.emulator.message_count(QUEUE) == 2, "the connection that was open outlives the port"


def test_in_a_black_hole_only_try_timeout_ends_a_renewal_and_every_retry_stays_in_it(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver(client_options={"try_timeout": 1.0})
    (message,) = receive(receiver)
    bench.emulator.blackhole(new=False)
    for _ in range(2):
        with pytest.raises(OperationTimeoutError):
            receiver.renew_message_lock(message)
    assert bench.emulator.connections() == 1, "the SDK goes on using the dead connection"
    message._receiver = fresh = bench.open_receiver()
    fresh.renew_message_lock(message)
    fresh.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()


def test_a_black_hole_that_heals_lets_the_held_call_through(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    bench.emulator.blackhole()
    waiting = in_thread(lambda: receiver.complete_message(message))
    waiting.join(0.3)
    assert waiting.is_alive()
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)
    bench.emulator.heal()
    waiting.join(10)
    assert not waiting.is_alive()
    assert bench.emulator.counts(QUEUE) == QueueCounts()


def test_a_connection_opened_into_a_black_hole_waits_for_an_answer_without_end(bench: Bench) -> None:
    bench.emulator.blackhole()
    receiver = bench.receiver(client_options={"try_timeout": 0.2})
    waiting = in_thread(lambda: receiver.receive_messages(max_wait_time=0.2))
    bench.emulator.wait_until(lambda emulator: emulator.connections() == 1)
    waiting.join(0.5)
    assert waiting.is_alive(), "neither try_timeout nor max_wait_time bounds the SDK's handshake"
    bench.emulator.heal()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_delay_slows_every_answer(bench: Bench) -> None:
    bench.send("a")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    receiver.renew_message_lock(message)
    bench.emulator.delay(0.3)
    started = time.monotonic()
    receiver.renew_message_lock(message)
    assert time.monotonic() - started >= 0.3
    bench.emulator.delay(0)
    receiver.complete_message(message)


def test_faults_refuse_senseless_values(bench: Bench) -> None:
    for call in (lambda: bench.emulator.delay(-1), lambda: bench.emulator.refuse_renewals(-1)):
        with pytest.raises(ValueError, match="must not be negative"):
            call()
