"""The outbox on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from core.messages import Channel
from core.records import OutboxEntry
from infrastructure.postgres import rows
from infrastructure.postgres.database import Database
from infrastructure.postgres.queries import queries


class PostgresOutboxStore:
    """The OutboxStore port on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._queries = queries("outbox")

    def take(self, channels: Iterable[Channel], *, limit: int, hold: timedelta) -> Sequence[OutboxEntry]:
        found = self._db.rows(
            self._queries["take"], {"channels": [str(channel) for channel in channels], "limit": limit, "hold": hold}
        )
        return sorted(rows.outbox_entries(found), key=lambda entry: entry.entry_id)

    def mark_sent(self, entry_ids: Sequence[int]) -> None:
        self._db.execute(self._queries["mark_sent"], {"entry_ids": list(entry_ids)})

    def mark_unsent(self, entry_id: int, *, error: str, retry_in: timedelta | None) -> None:
        self._db.execute(
            self._queries["mark_unsent"], {"entry_id": entry_id, "error": error[:2000], "retry_in": retry_in}
        )

    def next_due(self, channels: Iterable[Channel]) -> timedelta | None:
        row = self._db.row(self._queries["next_due"], {"channels": [str(channel) for channel in channels]})
        return row["due_in"] if row is not None else None

    def list_given_up(self, channel: Channel, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """Messages of a channel that were given up undelivered, the latest first; of an address its host only."""
        return self._db.rows(self._queries["given_up"], {"channel": str(channel), "limit": limit})

    def replay(self, channel: Channel, entry_ids: Sequence[int] | None) -> int:
        """Make given-up messages due again, their age starting now; all of the channel when no numbers are given.

        Returns:
            how many became due.
        """
        numbers = list(entry_ids) if entry_ids is not None else None
        return self._db.execute(self._queries["replay"], {"channel": str(channel), "entry_ids": numbers})
