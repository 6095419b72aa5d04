"""The emulator as tests and the command line use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from testing.emulator.clock import Clock
from testing.emulator.conditions import CONNECTION_FORCED, DETACH_FORCED
from testing.emulator.config import EmulatorConfig, load_config
from testing.emulator.faults import Budget, LostAck
from testing.emulator.message import new_message
from testing.emulator.performatives import AmqpError
from testing.emulator.queue import Queue
from testing.emulator.records import (
    DeliveryRecord,
    MessageState,
    QueueCounts,
    RenewalRecord,
    SettlementRecord,
    StoredMessage,
)
from testing.emulator.server import Server


class ServiceBusEmulator:
    """An AMQP 1.0 broker on loopback that the unmodified ``azure-servicebus`` SDK takes for Service Bus.

    A context manager; it serves from a thread of its own and every method may be called from any thread::

        with ServiceBusEmulator() as emulator:
            client = ServiceBusClient.from_connection_string(emulator.connection_string)

    ``port`` 0 picks a free one. A queue's dead-letter queue goes by ``"<queue>/$DeadLetterQueue"`` wherever a method
    takes a queue's name; methods that take one raise LookupError when there is none of that name, and all but
    :meth:`start` and :meth:`stop` raise RuntimeError when the emulator does not run.
    """

    def __init__(
        self,
        config: EmulatorConfig | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config or EmulatorConfig()
        self._clock = Clock(clock)
        self._server = Server(self.config, self._clock, host, port)

    @classmethod
    def from_config_file(cls, path: Path | str, *, host: str = "127.0.0.1", port: int = 0) -> Self:
        """From the official emulator's ``Config.json``. Raises ConfigurationError naming what is wrong in it."""
        return cls(load_config(path), host=host, port=port)

    # --- life

    def start(self) -> Self:
        """Begin to serve. Raises OSError when the port cannot be had."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Reset every connection, end the thread. The messages are gone."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def host(self) -> str:
        return self._server.host

    @property
    def port(self) -> int:
        """The port it listens on; known once started."""
        return self._server.port

    @property
    def connection_string(self) -> str:
        """What ``ServiceBusClient.from_connection_string`` takes."""
        return (
            f"Endpoint=sb://{self.host}:{self.port};SharedAccessKeyName={self.config.key_name};"
            f"SharedAccessKey={self.config.key};UseDevelopmentEmulator=true;"
        )

    @property
    def custom_endpoint_address(self) -> str:
        """What a client over WebSocket (``TransportType.AmqpOverWebsocket``) needs as well, to find the port."""
        return f"sb://{self.host}:{self.port}"

    # --- time

    def advance(self, by: timedelta) -> None:
        """Move the broker's clock on: locks end, scheduled messages ripen, messages expire. Tokens keep real time."""

        def move() -> None:
            self._clock.advance(by)
            self._server.broker.tick()

        self._server.call(move)

    def wait_until(self, condition: Callable[[Self], bool], *, timeout: float = 10.0) -> None:
        """Return when ``condition(emulator)`` holds; it is asked again after everything that happens.

        Raises TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition(self):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the condition did not hold within {timeout:g} s")
            with self._server.changed:
                self._server.changed.wait(min(left, 0.05))

    # --- messages

    def send(
        self,
        queue: str,
        body: bytes | str,
        *,
        message_id: str | None = None,
        application_properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a message into the queue without a client; ``message_id`` None makes one up."""
        message = new_message(
            body.encode() if isinstance(body, str) else body,
            message_id=message_id or str(uuid4()),
            application_properties=dict(application_properties or {}),
        )

        def put() -> None:
            found = self._find(queue)
            found.enqueue(message)
            found.pump()

        self._server.call(put)

    # --- looking in

    def counts(self, queue: str) -> QueueCounts:
        """How many messages the queue holds, by state."""
        return self._server.call(lambda: _counts(self._find(queue)))

    def message_count(self, queue: str) -> int:
        """How many messages the queue holds in any state, dead letters apart."""
        return self.counts(queue).total

    def peek(self, queue: str, limit: int = 100, *, from_sequence_number: int = 1) -> list[StoredMessage]:
        """The queue's messages in order, in whatever state."""
        return self._server.call(
            lambda: [entry.describe() for entry in self._find(queue).peek(from_sequence_number, limit)]
        )

    def dead_letters(self, queue: str, limit: int = 1000) -> list[StoredMessage]:
        """The dead letters of the queue, each with its reason and description."""
        return self._server.call(lambda: [entry.describe() for entry in _grave(self._find(queue)).peek(1, limit)])

    def deliveries(self, queue: str) -> list[DeliveryRecord]:
        """Every hand-over to a receiver so far."""
        return self._server.call(lambda: list(self._find(queue).deliveries))

    def renewals(self, queue: str) -> list[RenewalRecord]:
        """Every lock renewal asked for so far, the refused ones too."""
        return self._server.call(lambda: list(self._find(queue).renewals))

    def settlements(self, queue: str) -> list[SettlementRecord]:
        """Every settlement asked for so far, the refused ones too."""
        return self._server.call(lambda: list(self._find(queue).settlements))

    def purge(self, queue: str) -> int:
        """Drop every message of the queue, locked ones too; how many there were. Dead letters stay."""
        return self._server.call(lambda: self._find(queue).purge())

    def connections(self) -> int:
        """How many clients are connected."""
        return self._server.call(lambda: len(self._server.streams))

    # --- faults: connections

    def drop_connections(self) -> int:
        """Reset (RST) every connection there is; how many there were."""

        def drop() -> int:
            found = list(self._server.streams)
            for stream in found:
                stream.reset()
            return len(found)

        return self._server.call(drop)

    def close_connections(
        self, condition: str = CONNECTION_FORCED, description: str = "The connection was closed by the service."
    ) -> int:
        """Close every connection with an AMQP close that carries an error; how many there were."""

        def close() -> int:
            found = list(self._server.streams)
            for stream in found:
                stream.connection.close(AmqpError(condition, description))
            return len(found)

        return self._server.call(close)

    def refuse_connections(self) -> None:
        """Stop listening: connecting fails with "connection refused" until :meth:`accept_connections`."""
        self._server.listen(False)

    def accept_connections(self) -> None:
        """Listen again, on the same port."""
        self._server.listen(True)

    def blackhole(self, *, existing: bool = True, new: bool = True) -> None:
        """Half-open connections: nothing is read or written any more and nothing is closed, until :meth:`heal`.

        ``existing`` connections fall silent, ``new`` ones connect and get no answer.
        """

        def swallow() -> None:
            self._server.faults.blackhole_new = self._server.faults.blackhole_new or new
            for stream in self._server.streams if existing else ():
                stream.blackhole()

        self._server.call(swallow)

    def delay(self, seconds: float) -> None:
        """Hold back everything the broker sends by ``seconds``; 0 ends it. Raises ValueError when negative."""
        if seconds < 0:
            raise ValueError(f"seconds must not be negative: {seconds}")
        self._server.call(lambda: setattr(self._server.faults, "delay", float(seconds)))

    # --- faults: links, tokens, operations

    def detach_links(
        self, condition: str | None = DETACH_FORCED, description: str = "The link is force detached: idle timeout."
    ) -> int:
        """Detach every link to a queue, as the service does to idle ones; how many there were.

        ``condition`` None detaches without an error.
        """
        error = None if condition is None else AmqpError(condition, description)
        return self._server.call(
            lambda: sum(stream.connection.detach_links(error) for stream in list(self._server.streams))
        )

    def expire_tokens(self) -> None:
        """Every token put so far is void at once: links detach as unauthorized until a new one is put."""

        def expire() -> None:
            for stream in list(self._server.streams):
                stream.connection.expire_tokens()

        self._server.call(expire)

    def refuse_renewals(self, count: int | None = None) -> None:
        """Answer the next ``count`` lock renewals (None: all from now on; 0: none) with message-lock-lost."""
        self._server.call(lambda: setattr(self._server.faults, "refused_renewals", _budget(count)))

    def server_busy(self, count: int | None = 1) -> None:
        """Answer the next ``count`` sends and management requests (None: all from now on; 0: none) with server-busy."""
        self._server.call(lambda: setattr(self._server.faults, "busy_operations", _budget(count)))

    def lose_next_ack(self, *, drop_connection: bool = False) -> None:
        """Do what the next settlement asks for and swallow the acknowledgement, or reset the connection instead."""
        self._server.call(lambda: self._server.faults.lost_settlement_acks.append(LostAck(drop_connection)))

    def lose_next_send_ack(self, *, drop_connection: bool = False) -> None:
        """Take the next message sent and swallow the acknowledgement, or reset the connection instead."""
        self._server.call(lambda: self._server.faults.lost_send_acks.append(LostAck(drop_connection)))

    def heal(self) -> None:
        """End every fault that lasts; what a black hole held back arrives now."""
        self._server.call(self._heal)
        self._server.listen(True)

    def _heal(self) -> None:
        faults = self._server.faults
        faults.blackhole_new = False
        faults.delay = 0.0
        faults.refused_renewals = Budget()
        faults.busy_operations = Budget()
        faults.lost_settlement_acks.clear()
        faults.lost_send_acks.clear()
        for stream in list(self._server.streams):
            stream.heal()

    def _find(self, name: str) -> Queue:
        known = self._server.broker.names()
        if name.lower() not in known:
            raise LookupError(f"no queue is called {name!r}; there are {', '.join(sorted(known.values()))}")
        return self._server.broker.find(name)


def _budget(count: int | None) -> Budget:
    if count is not None and count < 0:
        raise ValueError(f"count must not be negative: {count}")
    return Budget(count)


def _grave(queue: Queue) -> Queue:
    return queue if queue.dead_letters is None else queue.dead_letters


def _counts(queue: Queue) -> QueueCounts:
    return QueueCounts(
        active=queue.count(MessageState.ACTIVE),
        locked=queue.count(MessageState.LOCKED),
        scheduled=queue.count(MessageState.SCHEDULED),
        deferred=queue.count(MessageState.DEFERRED),
        dead_letter=0 if queue.dead_letters is None else len(queue.dead_letters),
    )
