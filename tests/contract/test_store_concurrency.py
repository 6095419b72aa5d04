"""StateStore contract: what happens when many do the same thing at the same instant."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import pytest

from core.errors import ClaimLost, Conflict
from core.jobs import task_id
from core.messages import Channel, StageComplete, TaskMessage
from core.records import AttemptOutcome, Claim, FailurePolicy, TaskQuery
from core.states import JobStatus, TaskStatus
from tests.contract.stores import LEASE, MINUTE, PERMANENT, Given

T = TypeVar("T")
THREADS = 4


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Every call in a thread of its own, released together; results in order, errors as values."""
    barrier = threading.Barrier(len(calls))
    results: list[T | Exception] = [RuntimeError("never ran")] * len(calls)

    def run(number: int, call: Callable[[], T]) -> None:
        barrier.wait(30)
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=[number, call]) for number, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def no_errors(results: Sequence[T | Exception]) -> list[T]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for result in results if not isinstance(result, Exception)]


def fan_out_and_in(given: Given, tasks: int, name: str) -> None:
    """Complete every task of a job from four threads; each completion races for the last place."""
    job = given.running_job(tasks, name, total_stages=2)
    order = list(range(tasks))
    random.Random(name).shuffle(order)
    lasts: list[int] = []
    lock = threading.Lock()

    def complete(mine: Sequence[int]) -> None:
        for index in mine:
            commit = given.state.complete_task(given.claim(job.job_id, index), {"success": True, "i": index})
            if commit.last_in_stage:
                with lock:
                    lasts.append(index)

    no_errors(at_once([lambda mine=order[n::THREADS]: complete(mine) for n in range(THREADS)]))
    assert len(lasts) == 1
    signals = [signal for signal in given.messages(StageComplete) if signal.job_id == job.job_id]  # type: ignore[union-attr]
    assert len(signals) == 1
    (stage,) = given.state.list_stages(job.job_id)
    assert (stage.total, stage.remaining, stage.failed) == (tasks, 0, 0)
    results = given.state.stage_results(job.job_id, 1)
    assert [result.result_data for result in results] == [{"success": True, "i": index} for index in range(tasks)]
    assert {task.attempt for task in given.state.list_tasks(TaskQuery(job_id=job.job_id, limit=tasks))} == {1}
    assert given.plan(job.job_id, 1, stage=2).applied


@pytest.mark.parametrize("round_", range(3))
def test_the_last_of_many_turns_out_the_lights_once(given: Given, round_: int) -> None:
    fan_out_and_in(given, 120, f"round {round_}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_last_of_a_thousand_turns_out_the_lights_once_fifty_times(given: Given) -> None:
    for number in range(50):
        fan_out_and_in(given, 1000, f"round {number}")


def test_the_last_two_tasks_end_at_the_same_instant(given: Given) -> None:
    for number in range(15):
        job = given.running_job(THREADS, f"round {number}")
        claims = [given.claim(job.job_id, index) for index in range(THREADS)]
        commits = no_errors(
            at_once([lambda claim=claim: given.state.complete_task(claim, {"success": True}) for claim in claims])
        )
        assert [commit.last_in_stage for commit in commits].count(True) == 1
        assert len([s for s in given.messages(StageComplete) if s.job_id == job.job_id]) == 1  # type: ignore[union-attr]


def test_one_of_many_claims_wins(given: Given) -> None:
    for number in range(10):
        job = given.running_job(1, f"round {number}")
        answers = no_errors(
            at_once([lambda n=n, job=job: given.try_claim(job.job_id, worker=f"w{n}") for n in range(THREADS)])
        )
        winners = [answer for answer in answers if isinstance(answer, Claim)]
        assert len(winners) == 1
        assert given.task_now(job.job_id).lease_owner == winners[0].worker_id


def test_one_of_many_submissions_creates_the_job(given: Given) -> None:
    for number in range(10):
        submission = given.submission(f"round {number}")
        answers = no_errors(at_once([lambda one=submission: given.state.submit_job(one)] * THREADS))
        assert [commit.applied for _, commit in answers].count(True) == 1
        assert len({job.job_id for job, _ in answers}) == 1


def test_one_of_many_submissions_plans_the_job(given: Given) -> None:
    for number in range(10):
        submission = given.submission(f"round {number}", first_stage=given.stage_plan(2))
        answers = no_errors(at_once([lambda one=submission: given.state.submit_job(one)] * THREADS))
        assert [commit.applied for _, commit in answers].count(True) == 1
        (job_id,) = {job.job_id for job, _ in answers}
        assert len(given.state.list_tasks(TaskQuery(job_id=job_id))) == 2


def test_one_of_many_reruns_creates_the_run(given: Given) -> None:
    for number in range(10):
        job = given.job(f"round {number}")
        given.state.cancel_job(job.job_id, reason="r")
        again = given.submission(f"round {number}", rerun=True)
        answers = no_errors(at_once([lambda again=again: given.state.submit_job(again)] * THREADS))
        assert [commit.applied for _, commit in answers].count(True) == 1
        assert {found.run for found, _ in answers} == {2}


def test_one_of_many_replays_creates_the_run(given: Given) -> None:
    for number in range(10):
        job = given.running_job(2, f"round {number}")
        given.fail(job.job_id, 0)
        answers = at_once([lambda job=job: given.state.replay_job(job.job_id)] * THREADS)
        assert sum(isinstance(answer, Conflict) for answer in answers) == THREADS - 1
        assert [job.run for answer in answers if not isinstance(answer, Exception) for job in answer[:1]] == [2]


def test_one_of_many_plans_is_written(given: Given) -> None:
    for number in range(10):
        job = given.job(f"round {number}")
        commits = no_errors(at_once([lambda job=job: given.plan(job.job_id, 7)] * THREADS))
        assert [commit.applied for commit in commits].count(True) == 1
        assert given.state.count_tasks(job.job_id) == {1: {"pending": 7}}
        hints = [hint for hint in given.messages(TaskMessage) if hint.parent_job_id == job.job_id]  # type: ignore[union-attr]
        assert len(hints) == 7


def test_failures_at_the_same_instant_fail_a_fail_fast_job_once(given: Given) -> None:
    for number in range(10):
        job = given.running_job(10, f"round {number}")
        claims = [given.claim(job.job_id, index) for index in range(THREADS)]
        no_errors(
            at_once([lambda claim=claim: given.state.fail_task(claim, PERMANENT, retry_in=None) for claim in claims])
        )
        given.sweeps.sweep(limit=100)
        assert given.job_now(job.job_id).status is JobStatus.FAILED
        assert given.state.count_tasks(job.job_id) == {1: {"failed": THREADS, "cancelled": 10 - THREADS}}
        (stage,) = given.state.list_stages(job.job_id)
        assert (stage.remaining, stage.failed) == (0, THREADS)
        assert not given.plan(job.job_id, stage=2).applied


def test_a_cancel_races_with_claims_and_completions(given: Given) -> None:
    for number in range(15):
        job = given.running_job(6, f"round {number}")
        claims = [given.claim(job.job_id, index) for index in range(2)]
        at_once(
            [
                lambda job=job: given.state.cancel_job(job.job_id, reason="r"),
                lambda claim=claims[0]: given.state.complete_task(claim, {"success": True}),
                lambda claim=claims[1]: given.state.fail_task(claim, PERMANENT, retry_in=timedelta(0)),
                lambda job=job: given.try_claim(job.job_id, 2),
                lambda job=job: given.try_claim(job.job_id, 3),
            ]
        )
        given.advance(LEASE + MINUTE)
        given.sweeps.sweep(limit=100)
        tasks = given.state.list_tasks(TaskQuery(job_id=job.job_id))
        assert {task.status for task in tasks} <= {TaskStatus.COMPLETED, TaskStatus.CANCELLED}
        assert tasks[0].status is TaskStatus.COMPLETED
        assert given.state.list_stages(job.job_id)[0].remaining == 0
        assert given.job_now(job.job_id).status is JobStatus.CANCELLED


def test_a_completion_races_with_the_sweeper(given: Given) -> None:
    for number in range(15):
        job = given.running_job(1, f"round {number}")
        claim = given.claim(job.job_id)
        given.advance(LEASE + MINUTE)
        done, _, _ = at_once(
            [
                lambda claim=claim: given.state.complete_task(claim, {"success": True}),
                lambda: given.sweeps.sweep(limit=10),
                lambda: given.sweeps.sweep(limit=10),
            ]
        )
        task = given.task_now(job.job_id)
        history = given.state.list_attempts(task.task_id)
        if isinstance(done, ClaimLost):
            assert (task.status, task.failures) == (TaskStatus.QUEUED, 1)
            assert [attempt.outcome for attempt in history] == [AttemptOutcome.LEASE_EXPIRED]
        else:
            no_errors([done])
            assert task.status is TaskStatus.COMPLETED
            assert [attempt.outcome for attempt in history] == [AttemptOutcome.COMPLETED]


def test_relays_never_share_an_entry(given: Given) -> None:
    given.running_job(300)
    taken: Counter[int] = Counter()
    lock = threading.Lock()

    def relay() -> None:
        while entries := given.outbox.take(list(Channel), limit=7, hold=MINUTE):
            with lock:
                taken.update(entry.entry_id for entry in entries)
            given.outbox.mark_sent([entry.entry_id for entry in entries])

    no_errors(at_once([relay] * THREADS))
    assert len(taken) == 301
    assert set(taken.values()) == {1}
    assert given.outbox.next_due(list(Channel)) is None


def test_sweepers_of_several_processes_do_each_thing_once(given: Given) -> None:
    job = given.running_job(20, failure_policy=FailurePolicy.COLLECT)
    given.send_all()
    for index in range(10):
        given.claim(job.job_id, index)
    given.advance(LEASE + MINUTE)
    reports = no_errors(at_once([lambda: given.sweeps.sweep(limit=100)] * THREADS))
    assert sum(report.leases_expired for report in reports) == 10
    assert sum(report.hints_resent for report in reports) == 10
    for index in range(10):
        assert len(given.state.list_attempts(task_id(job.job_id, 1, index))) == 1
    given.advance(MINUTE)
    assert Counter(message.task_index for message in given.send_all() if isinstance(message, TaskMessage)) == Counter(
        range(20)
    )


def test_everything_at_once_keeps_the_books(given: Given) -> None:
    """Workers, sweepers and relays on the same job: at the end each task has one result and the stage one signal."""
    job = given.running_job(60, total_stages=2, max_attempts=50)
    done = threading.Event()
    completed: Counter[int] = Counter()
    lock = threading.Lock()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2_000):
            index = rng.randrange(60)
            claim = given.try_claim(job.job_id, index, worker=f"w{seed}")
            if not isinstance(claim, Claim):
                if given.state.list_stages(job.job_id)[0].remaining == 0:
                    return
                continue
            try:
                match rng.randrange(4):
                    case 0:
                        given.state.release_task(claim, reason="drain")
                    case 1:
                        given.state.fail_task(claim, PERMANENT, retry_in=timedelta(0))
                    case _:
                        given.state.complete_task(claim, {"success": True})
                        with lock:
                            completed[index] += 1
            except ClaimLost:
                continue

    def keep_house() -> None:
        while not done.is_set():
            given.sweeps.sweep(limit=100)
            given.send_all()
            done.wait(0.005)

    house = threading.Thread(target=keep_house)
    house.start()
    no_errors(at_once([lambda seed=seed: work(seed) for seed in range(THREADS)]))
    done.set()
    house.join(30)
    assert completed == Counter(range(60))
    assert len(given.messages(StageComplete)) == 1
    for task in given.state.list_tasks(TaskQuery(job_id=job.job_id)):
        history = given.state.list_attempts(task.task_id)
        assert [attempt.attempt for attempt in history] == list(range(1, task.attempt + 1))
        assert [attempt.outcome for attempt in history].count(AttemptOutcome.COMPLETED) == 1
        assert task.failures == sum(attempt.outcome is AttemptOutcome.FAILED for attempt in history)
