"""Running statements: foreign errors become ours here, and a dead pooled connection costs a retry, not a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import DictRow
from psycopg_pool import PoolClosed, PoolTimeout

from core.errors import Conflict, IllegalTransition, StoreUnavailable
from infrastructure.connection_pool import ConnectionPoolManager

Connection = psycopg.Connection[DictRow]
Cursor = psycopg.Cursor[DictRow]
T = TypeVar("T")

ILLEGAL_TRANSITION = "GW001"  # SQLSTATE raised by the transition triggers

# Serialization failure, deadlock, and the states of a server that is starting, stopping or failing over.
_SAME_CONNECTION = ("40001", "40P01")
_TRY_AGAIN = (*_SAME_CONNECTION, "57P01", "57P02", "57P03", "53300", "25006")
_NO_SCHEMA = ("3F000", "42P01", "42883")
_TRIES = 3


@contextmanager
def translated() -> Iterator[None]:
    """psycopg errors as :mod:`core.errors`."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable(f"no database connection: {error}") from error
    except PoolClosed as error:
        raise StoreUnavailable("the connection pool is closed") from error
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(str(error.diag.message_primary)) from error
    except psycopg.Error as error:
        if error.sqlstate == ILLEGAL_TRANSITION:
            raise IllegalTransition(str(error.diag.message_primary)) from error
        if error.sqlstate in _NO_SCHEMA:
            raise StoreUnavailable("the database schema is not there yet; apply it: geoworker migrate") from error
        if is_connection_fault(error):
            raise StoreUnavailable(f"the database went away: {type(error).__name__}") from error
        raise


def is_connection_fault(error: psycopg.Error) -> bool:
    """Whether the statement may succeed on another connection or later."""
    if error.sqlstate is not None:
        return error.sqlstate in _TRY_AGAIN or error.sqlstate.startswith("08")
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


class Database:
    """Runs single statements and transactions on pooled connections.

    Every statement of this project is guarded by the state it leaves, so it is safe to run again when the answer to
    the first run was lost.
    """

    def __init__(self, pool: ConnectionPoolManager) -> None:
        self.pool = pool

    def run(self, work: Callable[[Connection], T]) -> T:
        """``work`` on a connection, tried up to three times when the connection breaks under it.

        A server that restarts costs the time until it is back, at most the pool's acquire timeout a try.

        Raises:
            StoreUnavailable: when no connection can be had or each one broke.
        """
        with translated():
            for tries_left in range(_TRIES - 1, -1, -1):
                try:
                    with self.pool.connection() as connection:
                        return _on(connection, work)
                except psycopg.Error as error:
                    if isinstance(error, PoolTimeout | PoolClosed) or not (tries_left and is_connection_fault(error)):
                        raise
                    if error.sqlstate not in _SAME_CONNECTION:
                        self.pool.drop_broken()  # its neighbours are as dead
        raise AssertionError("unreachable")

    def rows(self, query: LiteralString, parameters: Mapping[str, Any] | None = None) -> list[DictRow]:
        """All rows of one statement in a transaction of its own."""
        return self.run(lambda connection: connection.execute(query, parameters).fetchall())

    def row(self, query: LiteralString, parameters: Mapping[str, Any] | None = None) -> DictRow | None:
        """The first row of one statement, or None."""
        return self.run(lambda connection: connection.execute(query, parameters).fetchone())

    def execute(self, query: LiteralString, parameters: Mapping[str, Any] | None = None) -> int:
        """The number of rows a statement changed."""
        return self.run(lambda connection: connection.execute(query, parameters).rowcount)


def _on(connection: Connection, work: Callable[[Connection], T]) -> T:
    try:
        return work(connection)
    except psycopg.Error as error:
        if is_connection_fault(error) and error.sqlstate not in _SAME_CONNECTION:
            connection.close()  # a server that has become a standby keeps it open, and refuses every write on it
        raise
