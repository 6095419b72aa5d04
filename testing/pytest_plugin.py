"""The pytest plugin ``geoworker``: the kit as fixtures, an embedded PostgreSQL, and the Service Bus emulator.

Nothing is loaded or started before a test asks for it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from core.machine import CoreMachine
    from core.messages import TaskMessage
    from infrastructure.connection_pool import ConnectionPoolManager
    from testing.emulator import ServiceBusEmulator
    from testing.mock_service_bus import MockServiceBusRepository
    from testing.mock_state_manager import MockStateManager
    from testing.workbench import JobRun, Workbench

SingleTask = tuple["CoreMachine", "MockStateManager", "MockServiceBusRepository", "TaskMessage"]


@pytest.fixture
def geoworker_single_task() -> Iterator[Callable[..., SingleTask]]:
    """``setup_single_task_test``; its machines are closed after the test."""
    from testing.test_core_machine import setup_single_task_test

    machines: list[CoreMachine] = []

    def setup(task_type: str, parameters: Any = None, job_type: str = "test_job", **options: Any) -> SingleTask:
        parts = setup_single_task_test(task_type, parameters, job_type, **options)
        machines.append(parts[0])
        return parts

    yield setup
    for machine in machines:
        machine.close()


@pytest.fixture
def geoworker_workbench() -> Iterator[Callable[..., Workbench]]:
    """``create_workbench``; its machines are closed after the test."""
    from testing.test_core_machine import create_workbench

    benches: list[Workbench] = []

    def create(**options: Any) -> Workbench:
        benches.append(create_workbench(**options))
        return benches[-1]

    yield create
    for bench in benches:
        bench.close()


@pytest.fixture
def geoworker_run_job() -> Callable[..., JobRun]:
    """``run_job``."""
    from testing.test_core_machine import run_job

    return run_job


@pytest.fixture(scope="session")
def geoworker_postgres() -> Iterator[str]:
    """The address of an embedded PostgreSQL that lives as long as the session (needs ``geoworker[embedded]``).

    Not below pytest's own directory: run as root, another session that starts closes that to the server's user.
    """
    from infrastructure.postgres.embedded import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="geoworker-postgres-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        server = EmbeddedPostgres(Path(directory, "data"))
        yield server.start()
        server.stop()


@pytest.fixture(scope="session")
def geoworker_template(geoworker_postgres: str) -> str:
    """The name of a migrated database that the databases of tests are cloned from."""
    from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
    from infrastructure.postgres.database import Database
    from infrastructure.postgres.migrations import migrate

    name = "geoworker_template"
    _run(geoworker_postgres, f"CREATE DATABASE {name}")
    pool = ConnectionPoolManager(_address(geoworker_postgres, name), PoolSettings(min_size=1, max_size=1))
    migrate(Database(pool))
    pool.close()
    return name


_numbers = itertools.count(1)


@pytest.fixture
def geoworker_database_url(geoworker_postgres: str, geoworker_template: str) -> Iterator[str]:
    """The address of a fresh, migrated database of the test's own."""
    name = f"geoworker_{next(_numbers)}"
    _run(geoworker_postgres, f"CREATE DATABASE {name} TEMPLATE {geoworker_template}")
    yield _address(geoworker_postgres, name)
    _run(geoworker_postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def geoworker_pool(geoworker_database_url: str) -> Iterator[ConnectionPoolManager]:
    """A connection pool on the test's database."""
    from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings

    pool = ConnectionPoolManager(geoworker_database_url, PoolSettings(min_size=1, max_size=4))
    yield pool
    pool.close()


@pytest.fixture
def geoworker_service_bus() -> Iterator[ServiceBusEmulator]:
    """A Service Bus namespace on loopback with the default queues."""
    from testing.emulator import ServiceBusEmulator

    with ServiceBusEmulator() as emulator:
        yield emulator


def _address(server: str, database: str) -> str:
    return server.replace("/postgres?", f"/{database}?")


def _run(address: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(statement.encode())
