"""A PostgreSQL to be killed, and a way to it that loses answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
from chaos_harness import is_alive, wait_until

from infrastructure.postgres.embedded import EmbeddedPostgres


class FragilePostgres:
    """A server of one's own."""

    def __init__(self, directory: Path) -> None:
        self._embedded = EmbeddedPostgres(directory)
        self.url = self._embedded.start()

    def crash(self) -> None:
        """End it as a power cut would: no checkpoint, every statement in flight broken off."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in order; statements in flight are broken off (``pg_ctl stop -m fast``)."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        pid = self._embedded.pid
        assert pid is not None
        os.kill(pid, how)
        wait_until(lambda: not is_alive(pid), 60)

    def start(self) -> None:
        """Bring it back, with what was committed; it takes connections again."""
        self._embedded.start()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.start()
        self._embedded.stop()


class LossyProxy:
    """Carries bytes between clients and the server; on request the server works and its answer is lost."""

    def __init__(self, url: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        self._target = f"{parts['host']}/.s.PGSQL.{parts.get('port') or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = psycopg.conninfo.make_conninfo(
            **{**parts, "host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable"}
        )
        self._lose_after: bytes | None = None
        self._connections: list[socket.socket] = []
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_next_answer(self, to: bytes = b"") -> None:
        """Of the next request that contains ``to``: it reaches the server, which answers; then the line is dead."""
        self._lose_after = to

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(self._target)
            self._connections += [client, server]
            threading.Thread(target=self._carry, args=[client, server], daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Request by request: everything that a client sends is one until the server has answered all of it."""
        losing = threading.Event()

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    if losing.is_set():
                        if data.endswith(b"Z\x00\x00\x00\x05I"):  # ReadyForQuery, idle: the transaction is over
                            self.lost += 1
                            break
                        continue
                    client.sendall(data)
            _close(client, server)

        threading.Thread(target=back, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._lose_after is not None and self._lose_after in data:
                    self._lose_after = None
                    losing.set()
                server.sendall(data)
        _close(client, server)

    def close(self) -> None:
        _close(self._listener, *self._connections)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextlib.contextmanager
def lossy(url: str) -> Iterator[LossyProxy]:
    proxy = LossyProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
