"""Shared fixtures: one real PostgreSQL a session, a fresh database a test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from app.composition import Application, compose
from app.role import Role
from app.settings import Settings
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.migrations import migrate

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the session's ``tmp_path`` directories a root of their own.

    Below the one that all sessions of a user share by default, every session that starts closes that to others: run as
    root, a PostgreSQL of a test that is under way (a user of its own) then loses its files.
    """
    if config.option.basetemp is None:
        directory = tempfile.mkdtemp(prefix="geoworker-tests-")
        config.option.basetemp = directory
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of an embedded PostgreSQL that lives as long as the session."""
    with tempfile.TemporaryDirectory(prefix="geoworker-postgres-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        server = EmbeddedPostgres(Path(directory, "data"))
        yield server.start()
        server.stop()


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> str:
    """A migrated database that each test's own is cloned from."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_geoworker")
    address = _address(postgres_server, "template_geoworker")
    pool = ConnectionPoolManager(address, PoolSettings(min_size=1, max_size=2))
    migrate(Database(pool))
    pool.close()
    return "template_geoworker"


@pytest.fixture
def make_database(postgres_server: str, template_database: str) -> Iterator[Callable[[], str]]:
    """Makes fresh, migrated databases and gives their addresses."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{next(_numbers)}")
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {made[-1]} TEMPLATE {template_database}".encode())
        return _address(postgres_server, made[-1])

    yield make
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def module_database(postgres_server: str, template_database: str) -> str:
    """The address of a migrated database that a module's tests share; it goes with the server."""
    name = f"module_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}".encode())
    return _address(postgres_server, name)


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    """The address of a fresh, migrated database."""
    return make_database()


def _address(server: str, database: str) -> str:
    return server.replace("/postgres?", f"/{database}?")


@pytest.fixture
def pool(database_url: str) -> Iterator[ConnectionPoolManager]:
    """A connection pool on the test's database."""
    manager = ConnectionPoolManager(database_url, PoolSettings(min_size=1, max_size=12))
    yield manager
    manager.close()


@pytest.fixture
def database(pool: ConnectionPoolManager) -> Database:
    """The test's database."""
    return Database(pool)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fast test process."""
    return Settings.from_env(
        {},
        data_dir=tmp_path / "data",
        worker_id="test-worker",
        retry_base_seconds=0.02,
        retry_cap_seconds=0.1,
        sweep_seconds=0.2,
        shutdown_grace_seconds=3,
    )


@pytest.fixture
def start_application(database_url: str, settings: Settings) -> Iterator[Callable[..., Application]]:
    """Compose and start an embedded application; drained after the test."""
    started: list[Application] = []

    def start(**overrides: object) -> Application:
        application = compose(settings.model_copy(update=overrides), Role.EMBEDDED, database_url=database_url)
        application.lifecycle.start()
        started.append(application)
        return application

    yield start
    for application in started:
        if not application.lifecycle.stopped.is_set():
            application.lifecycle.drain()
