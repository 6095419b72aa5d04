"""OutboxStore contract."""

from __future__ import annotations

from datetime import timedelta

from core.messages import Channel, JobMessage, TaskMessage
from core.records import OutboxEntry, RunsOn, TaskPlan
from core.states import TaskStatus
from tests.contract.stores import MINUTE, Given

HOLD = timedelta(seconds=30)
ALL = list(Channel)


def take(given: Given, *channels: Channel, limit: int = 100) -> list[OutboxEntry]:
    return list(given.outbox.take(channels or ALL, limit=limit, hold=HOLD))


def test_entries_are_taken_in_the_order_they_were_written(given: Given) -> None:
    jobs = [given.job(name).job_id for name in "abc"]
    entries = take(given)
    assert [entry.message.job_id for entry in entries] == jobs  # type: ignore[union-attr]
    assert [entry.entry_id for entry in entries] == sorted(entry.entry_id for entry in entries)
    assert all(entry.channel is Channel.JOBS and entry.tries == 0 for entry in entries)
    assert all(entry.created_at is not None for entry in entries)


def test_a_taken_entry_is_hidden_for_the_hold_and_comes_again(given: Given) -> None:
    given.job()
    assert len(take(given)) == 1
    assert take(given) == []
    given.advance(HOLD - timedelta(seconds=10))
    assert take(given) == []
    given.advance(timedelta(seconds=20))
    assert len(take(given)) == 1


def test_a_sent_entry_never_comes_again(given: Given) -> None:
    given.job()
    (entry,) = take(given)
    given.outbox.mark_sent([entry.entry_id])
    given.outbox.mark_sent([entry.entry_id, 10**9])
    given.advance(timedelta(days=1))
    assert take(given) == []
    assert given.outbox.next_due(ALL) is None
    given.outbox.mark_unsent(entry.entry_id, error="late", retry_in=timedelta(0))
    assert take(given) == []


def test_a_relay_takes_only_its_channels(given: Given) -> None:
    job = given.job()
    given.plan(job.job_id, 2, runs_on=RunsOn.FUNCTIONS)
    assert take(given, Channel.DOCKER) == []
    assert given.outbox.next_due([Channel.DOCKER, Channel.CALLBACKS]) is None
    assert given.outbox.next_due([]) is None
    assert take(given, Channel.DOCKER, Channel.FUNCTIONS, limit=1)[0].channel is Channel.FUNCTIONS
    assert len(take(given, Channel.FUNCTIONS)) == 1
    assert [type(entry.message) for entry in take(given, Channel.JOBS)] == [JobMessage]


def test_a_limit_leaves_the_rest(given: Given) -> None:
    given.running_job(5)
    assert len(take(given, limit=4)) == 4
    assert len(take(given, limit=4)) == 2
    assert take(given, limit=4) == []


def test_a_sent_hint_makes_its_task_queued(given: Given) -> None:
    job = given.running_job(2)
    hints = [entry for entry in take(given) if isinstance(entry.message, TaskMessage)]
    assert given.task_now(job.job_id, 0).status is TaskStatus.PENDING
    given.outbox.mark_sent([hints[0].entry_id])
    sent_index = hints[0].message.task_index  # type: ignore[union-attr]
    assert given.task_now(job.job_id, sent_index).status is TaskStatus.QUEUED
    assert given.task_now(job.job_id, 1 - sent_index).status is TaskStatus.PENDING


def test_a_hint_marked_late_changes_no_task_that_went_on(given: Given) -> None:
    job = given.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb") for _ in range(2)])
    entries = take(given)
    given.complete(job.job_id, 0)
    given.claim(job.job_id, 1)
    entries += take(given)
    given.outbox.mark_sent([entry.entry_id for entry in entries])
    assert given.task_now(job.job_id, 0).status is TaskStatus.COMPLETED
    assert given.task_now(job.job_id, 1).status is TaskStatus.PROCESSING


def test_a_failed_send_is_due_again_later_and_counted(given: Given) -> None:
    given.job()
    (entry,) = take(given)
    given.outbox.mark_unsent(entry.entry_id, error="refused\x00 " * 1000, retry_in=timedelta(minutes=5))
    given.advance(HOLD + MINUTE)
    assert take(given) == []
    given.advance(timedelta(minutes=5))
    (again,) = take(given)
    assert (again.entry_id, again.tries) == (entry.entry_id, 1)
    given.outbox.mark_unsent(entry.entry_id, error="refused", retry_in=timedelta(0))
    (again,) = take(given)
    assert again.tries == 2


def test_a_send_that_is_given_up_is_never_taken_again(given: Given) -> None:
    given.job()
    (entry,) = take(given)
    given.outbox.mark_unsent(entry.entry_id, error="never", retry_in=None)
    given.advance(timedelta(days=1))
    assert take(given) == []
    assert given.outbox.next_due(ALL) is None
    given.outbox.mark_unsent(10**9, error="unknown", retry_in=None)


def test_next_due_says_how_long_to_wait(given: Given) -> None:
    assert given.outbox.next_due(ALL) is None
    given.job("a")
    due = given.outbox.next_due(ALL)
    assert due is not None
    assert due <= timedelta(0)
    take(given)
    due = given.outbox.next_due(ALL)
    assert due is not None
    assert HOLD - timedelta(seconds=10) < due <= HOLD
    given.job("b")
    due = given.outbox.next_due(ALL)
    assert due is not None
    assert due <= timedelta(0)


def test_no_entries_marked_is_no_error(given: Given) -> None:
    given.outbox.mark_sent([])
