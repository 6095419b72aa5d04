"""deploy/azure/grants.sql on a real PostgreSQL: either process may migrate first, and the other works with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.session import open_session
from app.settings import Settings
from infrastructure.postgres.migrations import pending

GRANTS = Path(__file__).parents[2] / "deploy" / "azure" / "grants.sql"
NAMES = {"worker": "geoworker-worker", "function": "geoworker-function"}


@pytest.fixture
def granted(postgres_server: str) -> Iterator[str]:
    """An empty database with the two roles, as they are after deploy/azure/README.md."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE geoworker")
        for name in NAMES.values():
            connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
    address = postgres_server.replace("/postgres?", "/geoworker?")
    with psycopg.connect(address, autocommit=True) as connection:
        script = re.sub(r':"(\w+)"', lambda found: f'"{NAMES[found.group(1)]}"', GRANTS.read_text())
        connection.execute(script.encode())
    yield address
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE geoworker WITH (FORCE)")
        for name in (*NAMES.values(), "geoworker_owner"):
            connection.execute(f'DROP ROLE "{name}"'.encode())


@pytest.mark.parametrize("first", list(NAMES))
def test_whoever_starts_first_migrates_and_both_work(granted: str, first: str) -> None:
    second = next(who for who in NAMES if who != first)
    for who in (first, second):
        address = granted.replace("postgresql://postgres", f"postgresql://{NAMES[who]}")
        assert NAMES[who] in address
        with open_session(Settings.from_env({"DATABASE_URL": address})) as session:
            assert session.database.row("SELECT session_user::text AS name") == {"name": NAMES[who]}
            assert not pending(session.database)
            submitted = session.machine.submit_job("hello_world", {"n": 1, "message": f"hello from {who}"})
            assert submitted.created
