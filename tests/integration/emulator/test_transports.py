"""Other ways in: the asynchronous SDK, WebSockets, and a client that shares no code with the SDK."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, TransportType
from azure.servicebus.aio import ServiceBusClient as AsyncServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError, MessagingEntityNotFoundError
from proton import ConnectionException, Delivery, Disposition, Message
from proton.utils import BlockingConnection, LinkDetached

from testing.emulator import QueueCounts, ServiceBusEmulator
from tests.integration.emulator.conftest import LOCK, QUEUE, Bench, receive

FAST: dict[str, Any] = {"retry_total": 0, "keep_alive": 0, "socket_timeout": 0.05}


def test_the_asynchronous_sdk_does_all_of_it(bench: Bench) -> None:
    async def walk() -> None:
        async with (
            AsyncServiceBusClient.from_connection_string(bench.emulator.connection_string, **FAST) as client,
            client.get_queue_sender(QUEUE) as sender,
            client.get_queue_receiver(QUEUE, prefetch_count=1) as receiver,
        ):
            await sender.send_messages([ServiceBusMessage(body) for body in "abcd"])
            done = []
            for settle in (
                receiver.complete_message,
                receiver.defer_message,
                receiver.dead_letter_message,
                receiver.abandon_message,
            ):
                (message,) = await receiver.receive_messages(max_wait_time=5)
                await receiver.renew_message_lock(message)
                await settle(message)
                done.append(str(message))
            assert done == list("abcd")
            (lost,) = await receiver.receive_messages(max_wait_time=5)
            await asyncio.to_thread(bench.emulator.advance, LOCK)
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(lost)
            with pytest.raises(MessagingEntityNotFoundError):
                await client.get_queue_sender("nowhere").__aenter__()

    asyncio.run(walk())
    counts = bench.emulator.counts(QUEUE)
    assert (counts.active + counts.locked, counts.deferred, counts.dead_letter) == (1, 1, 1)


def test_the_sdk_over_websockets(bench: Bench) -> None:
    options = {
        "transport_type": TransportType.AmqpOverWebsocket,
        "custom_endpoint_address": bench.emulator.custom_endpoint_address,
    }
    body = b"x" * 100_000
    bench.sender(**options).send_messages(ServiceBusMessage(body))
    receiver = bench.receiver(client_options=options)
    (message,) = receive(receiver)
    assert b"".join(message.body) == body
    receiver.renew_message_lock(message)
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # the SDK's way to call aiohttp
def test_the_asynchronous_sdk_over_websockets(bench: Bench) -> None:
    options = {
        "transport_type": TransportType.AmqpOverWebsocket,
        "custom_endpoint_address": bench.emulator.custom_endpoint_address,
        "retry_total": 0,
        "keep_alive": 0,
    }

    async def walk() -> None:
        async with (
            AsyncServiceBusClient.from_connection_string(bench.emulator.connection_string, **options) as client,
            client.get_queue_sender(QUEUE) as sender,
        ):
            await sender.send_messages(ServiceBusMessage("x"))

    asyncio.run(walk())
    assert bench.emulator.message_count(QUEUE) == 1


def plain(emulator: ServiceBusEmulator, **changes: Any) -> BlockingConnection:
    options = {"user": emulator.config.key_name, "password": emulator.config.key, "allowed_mechs": "PLAIN"} | changes
    return BlockingConnection(
        f"amqp://{emulator.host}:{emulator.port}", timeout=5, allow_insecure_mechs=True, **options
    )


@pytest.fixture
def proton(bench: Bench) -> Iterator[BlockingConnection]:
    connection = plain(bench.emulator)
    yield connection
    connection.close()


def settled(bench: Bench, proton: BlockingConnection, expected: QueueCounts) -> None:
    """Proton's blocking client reads and writes only while it waits."""
    proton.wait(lambda: bench.emulator.counts(QUEUE) == expected, timeout=5, msg=f"waiting for {expected}")


def test_proton_sends_what_the_sdk_receives(bench: Bench, proton: BlockingConnection) -> None:
    sender = proton.create_sender(QUEUE)
    big = b"x" * 200_000
    for body in (b"small", big, b"last"):
        delivery = sender.send(Message(body=body, id="p", properties={"n": 1}, inferred=True))
        assert delivery.remote_state == Disposition.ACCEPTED
    got = receive(bench.receiver(), 3)
    assert [b"".join(message.body) for message in got] == [b"small", big, b"last"]
    assert [message.message_id for message in got] == ["p"] * 3


def test_proton_receives_and_settles_across_many_frames(bench: Bench, proton: BlockingConnection) -> None:
    """Delivery-ids count messages, not frames: a big message between small ones must not shift them."""
    bodies = [b"a", b"b" * 200_000, b"c", b"d" * 150_000, b"e"]
    for body in bodies:
        bench.emulator.send(QUEUE, body)
    receiver = proton.create_receiver(QUEUE, credit=5)
    got = [receiver.receive(timeout=5) for _ in bodies]
    assert [bytes(message.body) for message in got] == bodies
    assert [message.annotations["x-opt-sequence-number"] for message in got] == [1, 2, 3, 4, 5]
    for state in (Delivery.ACCEPTED, Delivery.RELEASED, Delivery.ACCEPTED, Delivery.REJECTED, Delivery.ACCEPTED):
        receiver.settle(state)
    receiver.link.flow(1)
    again = receiver.receive(timeout=5)
    assert (bytes(again.body), again.delivery_count) == (bodies[1], 0)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1, dead_letter=1)
    assert [one.body for one in bench.emulator.dead_letters(QUEUE)] == [bodies[3]]


def test_proton_abandons_with_a_count(bench: Bench, proton: BlockingConnection) -> None:
    bench.send("a")
    receiver = proton.create_receiver(QUEUE, credit=1)
    assert receiver.receive(timeout=5).delivery_count == 0
    receiver.fetcher.unsettled[0].local.failed = True
    receiver.settle(Delivery.MODIFIED)
    assert receiver.receive(timeout=5).delivery_count == 1


def test_proton_gives_credit_and_gets_no_more(bench: Bench, proton: BlockingConnection) -> None:
    bench.send(*"abcdef")
    receiver = proton.create_receiver(QUEUE, credit=2)
    receiver.receive(timeout=5)
    settled(bench, proton, QueueCounts(active=4, locked=2))
    receiver.link.flow(1)
    settled(bench, proton, QueueCounts(active=3, locked=3))


def test_proton_drains_its_credit(bench: Bench, proton: BlockingConnection) -> None:
    bench.send("a")
    receiver = proton.create_receiver(QUEUE)
    receiver.link.drain(10)
    proton.wait(lambda: receiver.link.credit == 0, timeout=5)
    settled(bench, proton, QueueCounts(locked=1))
    bench.emulator.send(QUEUE, "b")
    assert bench.emulator.counts(QUEUE) == QueueCounts(active=1, locked=1), "drained credit is spent"


def test_proton_is_told_what_is_wrong(bench: Bench, proton: BlockingConnection) -> None:
    with pytest.raises(LinkDetached, match="amqp:not-found"):
        proton.create_receiver("nowhere")
    with pytest.raises(LinkDetached, match="amqp:not-found"):
        proton.create_sender("nowhere")


def test_a_key_is_needed_by_proton_too(bench: Bench) -> None:
    with pytest.raises(ConnectionException):
        plain(bench.emulator, password="wrong")
    anonymous = plain(bench.emulator, user=None, password=None, allowed_mechs="ANONYMOUS")
    with pytest.raises(LinkDetached, match="amqp:unauthorized-access"):
        anonymous.create_receiver(QUEUE)
    anonymous.close()


def test_an_idle_connection_is_kept_by_empty_frames(bench: Bench) -> None:
    connection = plain(bench.emulator, heartbeat=0.2)
    receiver = connection.create_receiver(QUEUE, credit=1)
    with pytest.raises(Exception, match="timed out"):
        receiver.receive(timeout=1)
    bench.send("a")
    assert receiver.receive(timeout=5).id == "a"
    connection.close()


@pytest.mark.parametrize(
    "junk",
    [
        b"HELO nobody\r\n",
        b"AMQP\x03\x01\x00\x00" + b"\x00\x00\x00\x02\x02\x01\x00\x00",
        b"AMQP\x00\x01\x00\x00" + b"\x7f\xff\xff\xff\x02\x00\x00\x00",
        b"AMQP\x00\x01\x00\x00" + b"\x00\x00\x00\x0c\x02\x00\x00\x00\xff\xff\xff\xff",
        b"GET / NONSENSE\r\n\r\nx",
    ],
)
def test_junk_ends_its_own_connection_and_nothing_else(bench: Bench, junk: bytes) -> None:
    with socket.create_connection((bench.emulator.host, bench.emulator.port), timeout=5) as stream:
        stream.sendall(junk)
        while stream.recv(4096):
            pass
    bench.emulator.wait_until(lambda emulator: emulator.connections() == 0)


def test_health_answers_on_the_same_port(bench: Bench) -> None:
    for path, status in (("/health", 200), ("/nothing", 404)):
        connection = http.client.HTTPConnection(bench.emulator.host, bench.emulator.port, timeout=5)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status
        assert response.read().startswith(b'{"status":')
        connection.close()
