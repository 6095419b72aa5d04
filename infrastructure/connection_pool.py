"""PostgreSQL connections: a pool that can be swapped under running work; passwords are asked for when needed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from infrastructure.postgres.text import clean_text

logger = logging.getLogger(__name__)

_PING_SECONDS = 2.0  # health checks ask, and whoever asks them waits no longer
_CLOSE_SECONDS = 1.0
# The pauses between the tries of one series double; each series that failed is followed by a new one.
_RECONNECT_SECONDS = 3.0

PasswordProvider = Callable[[], str]
"""Gives the password of the moment, an Entra token for instance. Asked at every new connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How large the pool is (connections) and how long things may take (seconds)."""

    min_size: int = 2
    max_size: int = 10
    acquire_timeout: float = 10.0
    max_lifetime: float = 3300.0  # below an Entra token's hour
    connect_timeout: int = 5
    application_name: str = "geoworker"
    options: dict[str, str] = field(default_factory=dict)


class ConnectionPoolManager:
    """Hands out autocommit connections with dict rows.

    ``recreate_pool()`` puts a new pool in place at once; work that runs on connections of the old one finishes there,
    and the old pool closes each connection as it comes back.
    """

    def __init__(
        self, conninfo: str, settings: PoolSettings | None = None, *, password: PasswordProvider | None = None
    ) -> None:
        self._conninfo = conninfo
        self._settings = settings or PoolSettings()
        self._password = password
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._new_pool()

    @property
    def conninfo(self) -> str:
        """Where the pool connects to. May hold a password: for hashing, never for showing."""
        return self._conninfo

    def _connection_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": 1,  # what is run twice is run often: its plan is kept from the second time on
            "row_factory": dict_row,
            "connect_timeout": self._settings.connect_timeout,
            "application_name": self._settings.application_name,
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,  # milliseconds: a black hole ends a statement instead of holding it for ever
            **self._settings.options,
        }
        if self._password is not None:
            arguments["password"] = self._password()
        return arguments

    def _new_pool(self) -> ConnectionPool[psycopg.Connection[DictRow]]:
        return ConnectionPool(
            self._conninfo,
            kwargs=self._connection_arguments,
            min_size=self._settings.min_size,
            max_size=self._settings.max_size,
            timeout=self._settings.acquire_timeout,
            max_lifetime=self._settings.max_lifetime,
            reconnect_timeout=_RECONNECT_SECONDS,
            reconnect_failed=ConnectionPool.check,  # grows it, for the callers that wait
            configure=clean_text,
            open=True,
            name="geoworker",
        )

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection for the length of the block.

        Args:
            timeout: seconds to wait for one; the acquire timeout of the settings by default.

        Raises:
            PoolTimeout: when none comes free, or none can be made, within that time.
            PoolClosed: after :meth:`close`.
        """
        while True:
            pool = self._pool
            try:
                connection = pool.getconn(timeout)
            except PoolClosed:
                if self._closed or pool is self._pool:
                    raise
                continue  # the pool was swapped between the two lines above
            break
        try:
            with connection:
                yield connection
        finally:
            pool.putconn(connection)

    def recreate_pool(self) -> None:
        """Put a fresh pool in place; work on the old one's connections goes on undisturbed."""
        with self._lock:
            if self._closed:
                return
            old, self._pool = self._pool, self._new_pool()
        logger.info("connection pool recreated", extra={"action": "pool.recreated"})
        old.close(timeout=0)

    def drop_broken(self) -> None:
        """Try the idle connections and replace those that the server has left, so that nobody else is given them."""
        self._pool.check()

    def ping(self) -> None:
        """Raise psycopg.Error or PoolTimeout unless the database gives a connection within two seconds and answers."""
        with self.connection(_PING_SECONDS) as connection:
            connection.execute("SELECT 1")

    def status(self) -> dict[str, int]:
        """Pool figures for health and metrics: size, available, waiting requests, errors."""
        figures = self._pool.get_stats()
        return {
            "size": figures.get("pool_size", 0),
            "available": figures.get("pool_available", 0),
            "waiting": figures.get("requests_waiting", 0),
            "connection_errors": figures.get("connections_errors", 0),
            "connections_lost": figures.get("connections_lost", 0),
            "min_size": self._settings.min_size,
            "max_size": self._settings.max_size,
        }

    def close(self) -> None:
        """Close the pool for good. Idempotent."""
        with self._lock:
            self._closed = True
            self._pool.close(timeout=_CLOSE_SECONDS)


__all__ = ["ConnectionPoolManager", "PasswordProvider", "PoolClosed", "PoolSettings", "PoolTimeout"]
