"""Migrations: once each, from several processes at once, and never over another content."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import psycopg
import pytest

from core.errors import ConfigurationError, IllegalTransition
from core.states import JOB_TRANSITIONS, TASK_TRANSITIONS
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from infrastructure.postgres.migrations import available, migrate, pending

_numbers = count(1)


def _migrate(address: str) -> list[str]:
    pool = ConnectionPoolManager(address, PoolSettings(min_size=1, max_size=1))
    try:
        return list(migrate(Database(pool)))
    finally:
        pool.close()


@pytest.fixture
def empty_address(postgres_server: str) -> Iterator[str]:
    """The address of an empty database."""
    name = f"empty_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def empty(empty_address: str) -> Iterator[Database]:
    """An empty database."""
    pool = ConnectionPoolManager(empty_address, PoolSettings(min_size=1, max_size=4))
    yield Database(pool)
    pool.close()


def test_migrations_are_applied_in_order_and_once(empty: Database) -> None:
    names = [migration.name for migration in available()]
    assert names == sorted(names)
    assert pending(empty) == names
    assert migrate(empty) == names
    assert pending(empty) == []
    assert migrate(empty) == []


def test_several_threads_migrate_at_once(empty_address: str) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(_migrate(empty_address))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(len, applied)) == [0, 0, 0, len(available())]


def test_several_processes_migrate_at_once(empty_address: str) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        applied = processes.map(_migrate, [empty_address] * 4)
    assert sorted(map(len, applied)) == [0, 0, 0, len(available())]


def test_an_applied_migration_must_not_change(empty: Database) -> None:
    migrate(empty)
    name = available()[0].name
    empty.execute("UPDATE app.schema_migrations SET checksum = 'other' WHERE name = %(name)s", {"name": name})
    with pytest.raises(ConfigurationError, match=name):
        migrate(empty)


def test_a_newer_versions_migrations_do_not_stop_an_older_version(empty: Database) -> None:
    migrate(empty)
    empty.execute("INSERT INTO app.schema_migrations (name, checksum) VALUES ('9999_future', 'x')")
    assert migrate(empty) == []


@pytest.mark.parametrize("table", ["jobs", "tasks"])
def test_the_guards_are_the_table_of_transitions(empty: Database, table: str) -> None:
    migrate(empty)
    transitions = {
        str(before): {str(after) for after in following}
        for before, following in {"jobs": JOB_TRANSITIONS, "tasks": TASK_TRANSITIONS}[table].items()
    }
    empty.execute(
        "INSERT INTO app.jobs (job_id, fingerprint, job_type, total_stages, parameters, failure_policy)"
        " VALUES ('j', 'f', 't', 1, '{}', 'fail_fast')"
    )
    empty.execute(
        "INSERT INTO app.tasks (task_id, job_id, job_type, task_type, stage, task_index, runs_on, parameters)"
        " VALUES ('t', 'j', 't', 'w', 1, 0, 'docker', '{}')"
    )
    lease = ", lease_expires_at = CASE %(status)s WHEN 'processing' THEN now() END" if table == "tasks" else ""

    def write(status: str) -> None:
        empty.run(
            lambda connection: connection.execute(
                f"UPDATE app.{table} SET status = %(status)s{lease}".encode(), {"status": status}
            )
        )

    def put(status: str) -> None:
        empty.run(lambda connection: connection.execute(f"ALTER TABLE app.{table} DISABLE TRIGGER USER".encode()))
        write(status)
        empty.run(lambda connection: connection.execute(f"ALTER TABLE app.{table} ENABLE TRIGGER USER".encode()))

    for before, following in transitions.items():
        for after in transitions:
            put(before)
            if after in following or after == before:
                write(after)
            else:
                with pytest.raises(IllegalTransition, match=f"{before} to {after}"):
                    write(after)
    with pytest.raises(IllegalTransition, match="to unknown"):
        write("unknown")


def test_guards_follow_a_changed_table_of_transitions(empty: Database) -> None:
    migrate(empty)
    empty.execute(
        "CREATE OR REPLACE FUNCTION app.guard_jobs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    empty.execute("COMMENT ON TRIGGER guard_status ON app.jobs IS 'of another version'")
    migrate(empty)
    row = empty.row(
        "SELECT prosrc AS text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE tgrelid = 'app.jobs'::regclass AND tgname = 'guard_status'"
    )
    assert row is not None
    assert "completed_with_errors" in row["text"]


_JOB = (
    "INSERT INTO app.jobs (job_id, fingerprint, job_type, total_stages, parameters, failure_policy, status)"
    " VALUES ('j', 'f', 't', 1, '{}', 'fail_fast', %(status)s)"
)
_TASK = (
    "INSERT INTO app.tasks (task_id, job_id, job_type, task_type, stage, task_index, runs_on, parameters, status,"
    " lease_expires_at) VALUES ('t', 'j', 't', 'w', 1, 0, 'docker', '{}', %(status)s, %(lease)s)"
)


def test_a_row_of_an_unknown_status_cannot_be_inserted(empty: Database) -> None:
    migrate(empty)
    with pytest.raises(psycopg.errors.CheckViolation, match="jobs cannot be unknown"):
        empty.execute(_JOB, {"status": "unknown"})
    empty.execute(_JOB, {"status": "queued"})
    with pytest.raises(psycopg.errors.CheckViolation, match="tasks cannot be unknown"):
        empty.execute(_TASK, {"status": "unknown", "lease": None})


def test_a_task_has_a_lease_exactly_while_it_is_processed(empty: Database) -> None:
    migrate(empty)
    lease = datetime.now(UTC)
    empty.execute(_JOB, {"status": "processing"})
    with pytest.raises(psycopg.errors.CheckViolation):
        empty.execute(_TASK, {"status": "processing", "lease": None})
    with pytest.raises(psycopg.errors.CheckViolation):
        empty.execute(_TASK, {"status": "queued", "lease": lease})
    empty.execute(_TASK, {"status": "queued", "lease": None})
    with pytest.raises(psycopg.errors.CheckViolation):
        empty.execute("UPDATE app.tasks SET status = 'processing'")
    with pytest.raises(psycopg.errors.CheckViolation):
        empty.execute("UPDATE app.tasks SET lease_expires_at = now()")
    empty.execute("UPDATE app.tasks SET status = 'processing', lease_expires_at = now()")
    with pytest.raises(psycopg.errors.CheckViolation):
        empty.execute("UPDATE app.tasks SET lease_expires_at = NULL")


def test_guards_of_the_release_before_are_replaced(empty: Database) -> None:
    """It wrote them as a CHECK and into the trigger's WHEN."""
    migrate(empty)
    for statement in (
        "DROP TRIGGER guard_insert ON app.tasks",
        "CREATE FUNCTION app.refuse_transition() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE OR REPLACE TRIGGER guard_status BEFORE UPDATE OF status ON app.tasks FOR EACH ROW"
        " WHEN (OLD.status = 'nothing') EXECUTE FUNCTION app.refuse_transition()",
        "COMMENT ON TRIGGER guard_status ON app.tasks IS 'of the release before'",
        "ALTER TABLE app.tasks ADD CONSTRAINT known_status CHECK (status <> 'unknown')",
    ):
        empty.run(lambda connection, statement=statement: connection.execute(statement.encode()))
    migrate(empty)
    rows = empty.rows(
        "SELECT tgname, tgqual IS NULL AS unconditional FROM pg_trigger"
        " WHERE tgrelid = 'app.tasks'::regclass AND NOT tgisinternal ORDER BY tgname"
    )
    assert [tuple(row.values()) for row in rows] == [("guard_insert", False), ("guard_status", True)]
    assert (
        empty.rows("SELECT conname FROM pg_constraint WHERE conrelid = 'app.tasks'::regclass AND contype = 'c'") == []
    )
