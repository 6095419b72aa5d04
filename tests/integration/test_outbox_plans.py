"""The outbox keeps its word whatever plan PostgreSQL makes of its statements."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.messages import Channel
from infrastructure.postgres.database import Database
from infrastructure.postgres.outbox_store import PostgresOutboxStore


def write(database: Database, entries: int) -> None:
    database.execute(
        "INSERT INTO app.outbox (channel, message, job_id)"
        """ SELECT 'docker', '{"message_type": "job", "job_id": "j", "job_type": "t"}', 'j'"""
        " FROM generate_series(1, %(entries)s)",
        {"entries": entries},
    )


@pytest.mark.parametrize("known", [0, 1, 2, 1000])
def test_a_limit_holds_for_any_number_of_rows_that_the_planner_knows_of(database: Database, known: int) -> None:
    database.execute("TRUNCATE app.outbox")
    write(database, known)
    database.execute("ANALYZE app.outbox")
    write(database, 5)
    outbox = PostgresOutboxStore(database)
    assert len(outbox.take([Channel.DOCKER], limit=1, hold=timedelta(minutes=1))) == 1
    assert len(outbox.take([Channel.DOCKER], limit=3, hold=timedelta(minutes=1))) == 3
    database.execute("TRUNCATE app.outbox")
