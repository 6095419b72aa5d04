"""The ambiguous commit: PostgreSQL has committed, and its answer is lost on the way. Every statement is tried again by
the store itself, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from chaos_postgres import LossyProxy, lossy

from core.errors import Conflict
from core.messages import Channel, JobMessage, StageComplete, TaskEnded, TaskMessage
from core.records import AttemptOutcome, Checkpoint, Claim, TaskPlan
from core.states import JobStatus, TaskStatus
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from tests.contract.stores import LEASE, MINUTE, PERMANENT, TRANSIENT, Given, PostgresBackend

pytestmark = pytest.mark.chaos

COMPLETED = {"success": True}


@dataclass
class Line:
    """A store behind a proxy, and the same store without one."""

    proxy: LossyProxy
    given: Given
    direct: Given

    def losing(self, call: Callable[[], object], to: bytes = b"") -> object:
        """What ``call`` answers when the answer to its (next matching) statement is lost."""
        before = self.proxy.lost
        self.proxy.lose_next_answer(to)
        try:
            return call()
        finally:
            assert self.proxy.lost == before + 1, "no answer was lost"


@pytest.fixture
def line(database_url: str, database: Database) -> Iterator[Line]:
    with lossy(database_url) as proxy:
        pool = ConnectionPoolManager(proxy.url, PoolSettings(min_size=1, max_size=2))
        pool.ping()
        yield Line(
            proxy,
            Given(PostgresBackend(Database(pool), list(Channel))),
            Given(PostgresBackend(database, list(Channel))),
        )
        pool.close()


def test_a_lost_answer_to_a_submission(line: Line) -> None:
    job, commit = line.losing(lambda: line.given.state.submit_job(line.given.submission()))  # type: ignore[misc]
    assert not commit.applied  # it looks like one that was there already, which is true
    assert line.direct.job_now(job.job_id).status is JobStatus.QUEUED
    assert len(line.direct.messages(JobMessage)) == 1


def test_a_lost_answer_to_a_rerun_starts_one_run(line: Line) -> None:
    job = line.direct.job()
    line.direct.state.cancel_job(job.job_id, reason="r")
    found, _ = line.losing(lambda: line.given.state.submit_job(line.given.submission(rerun=True)))  # type: ignore[misc]
    assert found.run == 2


def test_a_lost_answer_to_a_replay_starts_one_run(line: Line) -> None:
    job = line.direct.running_job(2)
    line.direct.fail(job.job_id)
    with pytest.raises(Conflict, match="already followed by run"):
        line.losing(lambda: line.given.state.replay_job(job.job_id), to=b"COMMIT")
    runs = line.direct.backend.state.list_jobs
    from core.records import JobQuery

    assert sorted(found.run for found in runs(JobQuery())) == [1, 2]


def test_a_lost_answer_to_a_plan(line: Line) -> None:
    job = line.direct.job()
    commit = line.losing(lambda: line.given.plan(job.job_id, 5))
    assert not commit.applied  # type: ignore[attr-defined]
    assert len(line.direct.messages(TaskMessage)) == 5
    assert line.direct.state.list_stages(job.job_id)[0].remaining == 5


def test_a_lost_answer_to_a_claim_is_this_claim(line: Line) -> None:
    job = line.direct.running_job()
    claim = line.losing(lambda: line.given.try_claim(job.job_id))
    assert isinstance(claim, Claim)
    assert (claim.attempt, line.direct.task_now(job.job_id).attempt) == (1, 1)
    assert line.given.state.complete_task(claim, COMPLETED).last_in_stage


def test_a_lost_answer_to_a_completion(line: Line) -> None:
    job = line.direct.running_job([TaskPlan(parameters={}, callback_url="https://example.org/cb")])
    claim = line.direct.claim(job.job_id)
    commit = line.losing(lambda: line.given.state.complete_task(claim, COMPLETED))
    assert not commit.applied  # type: ignore[attr-defined]
    assert line.direct.task_now(job.job_id).status is TaskStatus.COMPLETED
    assert len(line.direct.messages(StageComplete)) == len(line.direct.messages(TaskEnded)) == 1
    assert line.direct.state.list_stages(job.job_id)[0].remaining == 0
    # What this process would have sent itself is found in the outbox when its hold has run out.
    line.direct.advance(MINUTE)
    sent = line.direct.send_all()
    assert [type(message) for message in sent].count(StageComplete) == 1


ENDINGS: dict[str, tuple[Callable[[Given, Claim], object], AttemptOutcome, TaskStatus]] = {
    "retry": (
        lambda given, claim: given.state.fail_task(claim, TRANSIENT, retry_in=MINUTE),
        AttemptOutcome.FAILED,
        TaskStatus.QUEUED,
    ),
    "fail": (
        lambda given, claim: given.state.fail_task(claim, PERMANENT, retry_in=None),
        AttemptOutcome.FAILED,
        TaskStatus.FAILED,
    ),
    "release": (
        lambda given, claim: given.state.release_task(claim, reason="drain"),
        AttemptOutcome.INTERRUPTED,
        TaskStatus.QUEUED,
    ),
    "cancel": (
        lambda given, claim: given.state.cancel_task(claim, reason="cancelled"),
        AttemptOutcome.CANCELLED,
        TaskStatus.CANCELLED,
    ),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_lost_answer_to_an_ending_counts_once(line: Line, how: str) -> None:
    end, outcome, status = ENDINGS[how]
    job = line.direct.running_job(2)
    claim = line.direct.claim(job.job_id)
    line.losing(lambda: end(line.given, claim))
    task = line.direct.task_now(job.job_id)
    assert task.status is status
    assert [attempt.outcome for attempt in line.direct.state.list_attempts(task.task_id)] == [outcome]
    assert task.failures == (outcome is AttemptOutcome.FAILED)
    assert task.interruptions == (outcome is AttemptOutcome.INTERRUPTED)
    stage = line.direct.state.list_stages(job.job_id)[0]
    open_tasks = {"retry": 2, "release": 2, "fail": 0, "cancel": 1}[how]
    assert stage.remaining == open_tasks


def test_a_lost_answer_to_a_heartbeat_loses_no_claim(line: Line) -> None:
    job = line.direct.running_job()
    claim = line.direct.claim(job.job_id)
    assert not line.losing(lambda: line.given.state.heartbeat(claim)).cancel_requested  # type: ignore[attr-defined]


def test_a_lost_answer_to_a_checkpoint(line: Line) -> None:
    job = line.direct.running_job()
    claim = line.direct.claim(job.job_id)
    line.losing(lambda: line.given.checkpoints.save_checkpoint(claim, Checkpoint(phase=1, data={"a": 1})))
    line.losing(lambda: line.given.checkpoints.save_items(claim, 2, {"k": {"v": 1}}))
    assert line.direct.checkpoints.load_checkpoint(claim).phase == 1
    assert line.direct.checkpoints.load_items(claim, 2) == {"k": {"v": 1}}


def test_a_lost_answer_to_the_end_of_a_job(line: Line) -> None:
    job = line.direct.running_job()
    line.direct.complete(job.job_id)
    finish = line.given.state.finish_job
    line.losing(lambda: finish(job.job_id, stage=1, status=JobStatus.COMPLETED, result={"n": 1}))
    assert line.direct.job_now(job.job_id).result_data == {"n": 1}
    other = line.direct.running_job(3, "other")
    line.losing(lambda: line.given.state.cancel_job(other.job_id, reason="r"))
    assert line.direct.job_now(other.job_id).status is JobStatus.CANCELLED
    assert line.direct.state.list_stages(other.job_id)[0].remaining == 0


def test_a_lost_answer_to_the_relay_loses_no_message(line: Line) -> None:
    line.direct.running_job(3)
    line.direct.advance(MINUTE)
    hold = timedelta(seconds=30)
    line.losing(lambda: line.given.outbox.take(list(Channel), limit=100, hold=hold))
    line.direct.advance(MINUTE)
    entries = line.direct.outbox.take(list(Channel), limit=100, hold=hold)
    assert sum(isinstance(entry.message, TaskMessage) for entry in entries) == 3
    line.losing(lambda: line.given.outbox.mark_sent([entry.entry_id for entry in entries]))
    line.direct.advance(MINUTE)
    assert line.direct.outbox.take(list(Channel), limit=100, hold=hold) == []


def test_a_lost_answer_to_a_sweep_expires_each_lease_once(line: Line) -> None:
    job = line.direct.running_job(4)
    for index in range(4):
        line.direct.claim(job.job_id, index)
    line.direct.advance(LEASE + MINUTE)
    line.losing(lambda: line.given.sweeps.sweep(limit=100), to=b"'lease_expired'")
    line.given.sweeps.sweep(limit=100)
    for index in range(4):
        task = line.direct.task_now(job.job_id, index)
        assert (task.status, task.failures) == (TaskStatus.QUEUED, 1)
        assert len(line.direct.state.list_attempts(task.task_id)) == 1
