"""The broker on a port: an event loop in a thread of its own, and the calls that other threads make into it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from testing.emulator.auth import Authority
from testing.emulator.broker import Broker
from testing.emulator.clock import Clock
from testing.emulator.config import EmulatorConfig
from testing.emulator.connection import Connection, Wire
from testing.emulator.faults import Faults
from testing.emulator.stream import ClientStream

_T = TypeVar("_T")
_CALL_TIMEOUT = 30.0


class Server:
    """Serves one broker. :meth:`call` runs a function where the broker lives; everything else is private to it."""

    def __init__(self, config: EmulatorConfig, clock: Clock, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.broker: Broker
        self.faults: Faults
        self._config = config
        self._clock = clock
        self.streams: list[ClientStream] = []
        self.changed = threading.Condition()
        self._authority = Authority(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Server | None = None
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- life

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Listen, with empty queues and no faults. Raises OSError when the port is taken, RuntimeError when running."""
        if self._thread is not None:
            raise RuntimeError("the emulator is running already")
        self.broker = Broker(self._config, self._clock)
        self.faults = Faults()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="service-bus-emulator", daemon=True)
        self._thread.start()
        try:
            started.result(_CALL_TIMEOUT)
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Reset every connection and end the thread. Harmless when not running."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result(_CALL_TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CALL_TIMEOUT)
        self._thread = None
        with self.changed:
            self.changed.notify_all()

    def call(self, do: Callable[[], _T]) -> _T:
        """The result of ``do()``, run by the broker's thread between events. Raises RuntimeError when not running."""
        loop = self._loop
        if self._thread is None or loop is None:
            raise RuntimeError("the emulator is not running")
        result: Future[_T] = Future()

        def run() -> None:
            try:
                value = do()
            except BaseException as exc:  # noqa: BLE001 - handed to the caller's thread
                result.set_exception(exc)
            else:
                result.set_result(value)
            self.after_event()

        loop.call_soon_threadsafe(run)
        return result.result(_CALL_TIMEOUT)

    # --- listening

    def listen(self, enabled: bool) -> None:
        """Accept connections, or have the kernel refuse them."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("the emulator is not running")
        asyncio.run_coroutine_threadsafe(self._listen() if enabled else self._unlisten(), loop).result(_CALL_TIMEOUT)

    async def _listen(self) -> None:
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._accept, self.host, self.port, backlog=256)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self) -> ClientStream:
        stream = ClientStream(self._connect, self.faults, on_event=self.after_event, on_end=self.streams.remove)
        self.streams.append(stream)
        return stream

    def _connect(self, wire: Wire) -> Connection:
        return Connection(wire, self.broker, self._authority, self.faults)

    # --- the loop

    def _run(self, started: Future[None]) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        try:
            try:
                loop.run_until_complete(self._listen())
            except BaseException as exc:  # noqa: BLE001 - handed to the thread that starts
                started.set_exception(exc)
                return
            started.set_result(None)
            loop.run_forever()
        finally:
            self._loop = None
            loop.close()

    async def _shut_down(self) -> None:
        await self._unlisten()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream in list(self.streams):
            stream.reset()
        while self.streams:
            await asyncio.sleep(0)

    def after_event(self) -> None:
        """Set the timer for what is due next, and wake who waits for a change."""
        loop = self._loop
        if loop is None:
            return
        due = self.broker.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = loop.call_later(max(0.0, due - self.broker.clock.now()), self._on_time)
        with self.changed:
            self.changed.notify_all()

    def _on_time(self) -> None:
        self._timer = None
        self.broker.tick()
        self.after_event()
