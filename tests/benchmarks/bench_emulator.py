"""Messages per second through the emulator with the synchronous SDK: ``python tests/benchmarks/bench_emulator.py``.

Broker and client share one process and its interpreter lock, as they do in tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiver, ServiceBusSender

from testing.emulator import ServiceBusEmulator

QUEUE = "long-running-tasks"
COUNT = 1000
BODY = b"x" * 200


def rate(what: str, work: Callable[[], None]) -> None:
    started = time.perf_counter()
    work()
    print(f"{what:24} {COUNT / (time.perf_counter() - started):7.0f} messages/s")


def send(sender: ServiceBusSender, portion: int) -> None:
    for _ in range(COUNT // portion):
        sender.send_messages([ServiceBusMessage(BODY) for _ in range(portion)])


def receive_and_complete(receiver: ServiceBusReceiver, portion: int) -> None:
    done = 0
    while done < COUNT:
        for message in receiver.receive_messages(portion, max_wait_time=5):
            receiver.complete_message(message)
            done += 1


def main() -> None:
    with (
        ServiceBusEmulator() as emulator,
        ServiceBusClient.from_connection_string(emulator.connection_string, keep_alive=0) as client,
        client.get_queue_sender(QUEUE) as sender,
        client.get_queue_receiver(QUEUE) as receiver,
    ):
        rate("send, one by one", lambda: send(sender, 1))
        rate("send, lists of 500", lambda: send(sender, 500))
        rate("receive 1 + complete", lambda: receive_and_complete(receiver, 1))
        rate("receive 100 + complete", lambda: receive_and_complete(receiver, 100))


if __name__ == "__main__":
    main()
