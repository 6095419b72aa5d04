"""Statements on the outbox (``infrastructure/postgres/sql/outbox.sql``)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from core.messages import Channel
from core.records import OutboxEntry
from core.states import TaskStatus
from infrastructure.json_text import clean
from testing.memory.rows import OutboxRow
from testing.memory.tables import Tables, atomic


class OutboxStatements(Tables):
    """The OutboxStore port."""

    @atomic
    def take(self, channels: Iterable[Channel], *, limit: int, hold: timedelta) -> Sequence[OutboxEntry]:
        now = self.clock.now()
        channels = [channel for channel in channels if self._due[channel] and self._due[channel][0][0] <= now]
        if not channels:
            return ()
        due: dict[tuple[datetime, int], OutboxRow] = {}
        for channel in channels:
            enough = len(due) + limit
            while len(due) < enough and (first := self._first(channel)) is not None and first[0] <= now:
                due[heapq.heappop(self._due[channel])] = self._open[first[1]]
        taken = sorted(due)
        for place in taken[limit:]:
            heapq.heappush(self._due[due[place].channel], place)
        rows = [due[place] for place in taken[:limit]]
        for row in rows:
            self._put_off(row, now + hold)
        return [row.entry() for row in sorted(rows, key=_number)]

    @atomic
    def mark_sent(self, entry_ids: Sequence[int]) -> None:
        now = self.clock.now()
        for entry_id in entry_ids:
            row = self._outbox.get(entry_id)
            if row is None or row.sent_at is not None:
                continue
            row.sent_at, row.last_error = now, None
            self._open.pop(entry_id, None)
            if row.task_id is not None and row.channel is not Channel.CALLBACKS:
                task = self._tasks[row.task_id]
                if task.status is TaskStatus.PENDING:
                    task.become(TaskStatus.QUEUED)

    @atomic
    def mark_unsent(self, entry_id: int, *, error: str, retry_in: timedelta | None) -> None:
        row = self._outbox.get(entry_id)
        if row is None or row.sent_at is not None:
            return
        now = self.clock.now()
        row.tries += 1
        row.last_error = clean(error[:2000])
        if retry_in is None:
            row.given_up_at, row.available_at = now, now
            self._open.pop(entry_id, None)
            self._note("give_up_message", now, entry_id=entry_id, channel=str(row.channel), error=row.last_error)
        else:
            row.given_up_at = None
            self._open[entry_id] = row
            self._put_off(row, now + retry_in)

    @atomic
    def next_due(self, channels: Iterable[Channel]) -> timedelta | None:
        moments = [first[0] for channel in channels if (first := self._first(channel)) is not None]
        return min(moments) - self.clock.now() if moments else None

    def _put_off(self, row: OutboxRow, until: datetime) -> None:
        row.available_at = until
        heapq.heappush(self._due[row.channel], (until, row.entry_id))

    def _first(self, channel: Channel) -> tuple[datetime, int] | None:
        """The channel's open entry that is due first; what the heap has of others is dropped."""
        heap = self._due[channel]
        while heap:
            moment, entry_id = heap[0]
            row = self._open.get(entry_id)
            if row is not None and row.available_at == moment:
                return heap[0]
            heapq.heappop(heap)
        return None


def _number(row: OutboxRow) -> int:
    return row.entry_id
