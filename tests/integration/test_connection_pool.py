"""The connection pool under running work: swapped, emptied by a restart, and fed with tokens that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from core.errors import StoreUnavailable
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.credentials import DATABASE_SCOPE, TokenPassword, entra_database_password
from infrastructure.postgres.database import Database


def pid(connection: psycopg.Connection[dict[str, int]]) -> int:
    row = connection.execute("SELECT pg_backend_pid() AS pid").fetchone()
    assert row is not None
    return row["pid"]


def test_a_swap_leaves_running_work_on_its_connection_and_gives_new_work_a_new_one(database_url: str) -> None:
    manager = ConnectionPoolManager(database_url, PoolSettings(min_size=1, max_size=2))
    with manager.connection() as old:
        old_pid = pid(old)
        with old.transaction():
            old.execute("CREATE TEMP TABLE kept (n int)")
            manager.recreate_pool()
            old.execute("INSERT INTO kept VALUES (1)")
        with manager.connection() as new:
            assert pid(new) != old_pid
        assert old.execute("SELECT n FROM kept").fetchone() == {"n": 1}
    with manager.connection() as watcher:
        deadline = time.monotonic() + 5
        gone = "SELECT count(*) AS n FROM pg_stat_activity WHERE pid = %s"
        while watcher.execute(gone, [old_pid]).fetchone() != {"n": 0}:
            assert time.monotonic() < deadline, "the old pool's connection was not closed when it came back"
    manager.close()


def test_swaps_in_mid_flight_fail_no_statement(database_url: str) -> None:
    manager = ConnectionPoolManager(database_url, PoolSettings(min_size=2, max_size=4))
    database = Database(manager)
    database.execute("CREATE TABLE counted (n int)")
    errors: list[Exception] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                database.execute("INSERT INTO counted VALUES (1)")
                done.append(1)
            except Exception as error:
                errors.append(error)

    done: list[int] = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        before = len(done)
        manager.recreate_pool()
        while len(done) < before + 20 and not errors:
            time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert errors == []
    assert database.row("SELECT count(*) AS n FROM counted") == {"n": len(done)}
    manager.close()


def test_connections_that_the_server_has_closed_cost_no_error(database_url: str) -> None:
    manager = ConnectionPoolManager(database_url, PoolSettings(min_size=6, max_size=6))
    manager.ping()
    database = Database(manager)
    for _ in range(6):  # fill the pool
        database.row("SELECT 1 AS one")
    with psycopg.connect(database_url, autocommit=True) as killer:
        killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert database.row("SELECT 1 AS one") == {"one": 1}
    manager.close()


def test_a_closed_pool_says_so(database_url: str) -> None:
    manager = ConnectionPoolManager(database_url)
    manager.close()
    manager.close()
    manager.recreate_pool()
    with pytest.raises(StoreUnavailable, match="closed"):
        Database(manager).row("SELECT 1")


def test_an_unreachable_server_is_told_within_the_acquire_timeout(tmp_path: Path) -> None:
    manager = ConnectionPoolManager(f"host={tmp_path} dbname=nothing", PoolSettings(min_size=1, acquire_timeout=0.3))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="no database connection"):
        Database(manager).row("SELECT 1")
    assert time.monotonic() - began < 5
    manager.close()


@dataclass
class Token:
    token: str
    expires_on: int


@dataclass
class Credential:
    """Gives a new token at each call, good for ``seconds``."""

    seconds: float
    scopes: list[str] = field(default_factory=list)

    def get_token(self, *scopes: str) -> Token:
        self.scopes += scopes
        return Token(f"token-{len(self.scopes)}", int(time.time() + self.seconds))


def test_a_token_is_kept_until_five_minutes_before_its_end() -> None:
    lasting = Credential(seconds=3600)
    password = entra_database_password(lasting)
    assert [password(), password()] == ["token-1", "token-1"]
    assert lasting.scopes == [DATABASE_SCOPE]
    ending = TokenPassword(Credential(seconds=299))
    assert [ending(), ending()] == ["token-1", "token-2"]
    assert "token-" not in repr(ending)


@pytest.fixture
def guarded_server(postgres_server: str) -> Iterator[tuple[str, str]]:
    """A role whose password can be changed: an address without one, and the role's name."""
    role = "entra_user"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER".encode())
    yield postgres_server, role
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP ROLE {role}".encode())


def test_every_new_connection_asks_for_the_password_of_the_moment(guarded_server: tuple[str, str]) -> None:
    address, role = guarded_server
    asked: list[str] = []

    class Expiring(Credential):
        def get_token(self, *scopes: str) -> Token:
            token = super().get_token(*scopes)
            asked.append(token.token)
            return token

    parts = psycopg.conninfo.conninfo_to_dict(address)
    conninfo = psycopg.conninfo.make_conninfo(**{**parts, "user": role})
    manager = ConnectionPoolManager(
        conninfo, PoolSettings(min_size=1, max_size=3), password=TokenPassword(Expiring(seconds=0))
    )
    with manager.connection() as first, manager.connection() as second:
        assert first.info.password != second.info.password
        assert {first.info.password, second.info.password} <= set(asked)
    earlier = list(asked)
    manager.recreate_pool()
    with manager.connection() as third:
        assert third.info.password in asked
        assert third.info.password not in earlier
    manager.close()


def test_a_credential_that_fails_for_a_while_is_asked_again(database_url: str) -> None:
    answers = iter([OSError("the identity endpoint is away"), OSError("still away")])

    def password() -> str:
        for fault in answers:
            raise fault
        return "good"

    manager = ConnectionPoolManager(database_url, PoolSettings(min_size=1, acquire_timeout=15), password=password)
    assert Database(manager).row("SELECT 1 AS one") == {"one": 1}
    manager.close()
