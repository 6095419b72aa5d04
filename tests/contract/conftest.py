"""Every store and every task source, behind the fixtures that the contracts use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import psycopg
import pytest

from core.messages import Channel
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from tests.contract.sources import InMemoryHarness, SourceHarness
from tests.contract.sources_service_bus import ServiceBusHarness
from tests.contract.stores import Given, MemoryBackend, PostgresBackend

GivenFactory = Callable[..., Given]


@pytest.fixture(scope="session")
def contract_database(postgres_server: str, template_database: str) -> Iterator[Database]:
    """One database for all contract tests, emptied between them: much faster than one each."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE contract TEMPLATE {template_database}".encode())
    pool = ConnectionPoolManager(
        postgres_server.replace("/postgres?", "/contract?"),
        PoolSettings(min_size=1, max_size=12, options={"options": "-c synchronous_commit=off"}),
    )
    yield Database(pool)
    pool.close()


@pytest.fixture(params=["memory", "postgres"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Which store the test runs on."""
    kind: str = request.param
    return kind


@pytest.fixture
def make_store(store_kind: str, request: pytest.FixtureRequest) -> GivenFactory:
    """Makes an empty store; ``direct`` are the channels whose messages the process under test sends itself."""

    def make(direct: Collection[Channel] = ()) -> Given:
        if store_kind == "memory":
            return Given(MemoryBackend(direct))
        backend = PostgresBackend(request.getfixturevalue("contract_database"), direct)
        backend.clear()
        return Given(backend)

    return make


@pytest.fixture
def given(make_store: GivenFactory) -> Given:
    """An empty store that leaves every message to relays."""
    return make_store()


@pytest.fixture(params=[InMemoryHarness, ServiceBusHarness], ids=["in_memory", "service_bus"])
def harness(request: pytest.FixtureRequest) -> Iterator[SourceHarness]:
    """Every transport; a new one joins by its harness class here."""
    made: SourceHarness = request.param()
    yield made
    made.close()
