"""The machine over both stores at once, under any interleaving: same answers, same state, and the laws hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.records import AttemptOutcome
from core.states import TERMINAL_JOB_STATUSES, TERMINAL_TASK_STATUSES, JobStatus, TaskStatus
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from tests.contract.stores import Backend, MemoryBackend, PostgresBackend
from tests.property.world import STEP, Seen, World

NUMBERS = st.integers(0, 30)
ENDS = st.sampled_from(["ok", "ok", "ok", "transient", "permanent", "crash", "drain", "lease_lost"])
WRITES = st.sampled_from(["complete", "complete", "fail", "retry", "release", "cancel", "heartbeat"])
STEPS = st.sampled_from([STEP, 3 * STEP, 36 * STEP])


class MachineOverStores(RuleBasedStateMachine):
    """Two worlds, one script."""

    def __init__(self, backends: Callable[[], list[Backend]]) -> None:
        super().__init__()
        self.worlds = [World(backend) for backend in backends()]
        self.before = self.worlds[0].see()
        self.seen = self.before
        self.resent: Counter[str] = Counter()

    def both(self, step: Callable[[World], object]) -> Any:
        answers = []
        for world in self.worlds:
            with world.backend.running():
                answers.append(step(world))
        assert answers[0] == answers[1]
        self.before = self.seen
        self.seen, other = (world.see() for world in self.worlds)
        for part in fields(Seen):
            assert getattr(self.seen, part.name) == getattr(other, part.name), part.name
        return answers[0]

    @property
    def has_network(self) -> bool:
        return bool(self.worlds[0].network)

    @property
    def has_claims(self) -> bool:
        return bool(self.worlds[0].claims)

    @initialize(tasks=st.integers(1, 3), collect=st.booleans())
    def plan_a_job(self, tasks: int, collect: bool) -> None:
        """Start where there is something to break."""
        self.both(lambda world: world.submit("a", tasks, collect, False))
        self.both(lambda world: world.relay(True))
        self.both(lambda world: world.deliver(0, "ok", False))

    @rule(name=st.sampled_from("abc"), tasks=st.integers(0, 3), collect=st.booleans(), rerun=st.booleans())
    def submit(self, name: str, tasks: int, collect: bool, rerun: bool) -> None:
        self.both(lambda world: world.submit(name, tasks, collect, rerun))

    @rule(marked=st.sampled_from([True, True, False]))
    def relay(self, marked: bool) -> None:
        self.both(lambda world: world.relay(marked))

    @precondition(lambda self: self.has_network)
    @rule(number=NUMBERS, how=ENDS, keep=st.sampled_from([False, False, True]))
    def deliver(self, number: int, how: str, keep: bool) -> None:
        self.both(lambda world: world.deliver(number, how, keep))

    @precondition(lambda self: self.has_network)
    @rule(number=NUMBERS, how=ENDS)
    def deliver_another(self, number: int, how: str) -> None:
        self.both(lambda world: world.deliver(number, how, False))

    @precondition(lambda self: self.has_network)
    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        self.both(lambda world: world.lose(number))

    @rule()
    def give_up(self) -> None:
        self.both(lambda world: world.give_up())

    @precondition(lambda self: self.seen.tasks)
    @rule(number=NUMBERS)
    def begin(self, number: int) -> None:
        self.both(lambda world: world.begin(number))

    @precondition(lambda self: self.seen.tasks)
    @rule(number=NUMBERS, how=WRITES)
    def begin_and_end(self, number: int, how: str) -> None:
        if self.both(lambda world: world.begin(number)).startswith("claim"):
            self.both(lambda world: world.end(-1, how))

    @precondition(lambda self: self.has_claims)
    @rule(
        number=NUMBERS, how=st.sampled_from(["complete", "complete", "fail", "retry", "release", "cancel", "heartbeat"])
    )
    def end(self, number: int, how: str) -> None:
        self.both(lambda world: world.end(number, how))

    @precondition(lambda self: self.seen.jobs)
    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        self.both(lambda world: world.cancel(number))

    @precondition(lambda self: self.seen.jobs)
    @rule(number=NUMBERS, from_stage=st.sampled_from([None, None, 1, 2]))
    def retry(self, number: int, from_stage: int | None) -> None:
        self.both(lambda world: world.retry(number, from_stage))

    @rule(by=STEPS)
    def advance(self, by: timedelta) -> None:
        self.both(lambda world: world.backend.advance(by))

    @rule()
    def sweep(self) -> None:
        self.both(lambda world: world.sweep())

    @invariant()
    def an_end_is_final(self) -> None:
        for job_id, job in self.before.jobs.items():
            if job[0] in TERMINAL_JOB_STATUSES:
                assert self.seen.jobs[job_id] == job
        for task_id, task in self.before.tasks.items():
            if task[2] in TERMINAL_TASK_STATUSES:
                assert self.seen.tasks[task_id] == task

    @invariant()
    def every_ended_attempt_is_recorded_once(self) -> None:
        for task_id, history in self.seen.attempts.items():
            job_id, _, status, attempt, failures, interruptions, *_ = self.seen.tasks[task_id]
            numbers = [one[0] for one in history]
            if not numbers and self.seen.jobs[str(job_id)][3] is not None:
                continue  # carried over from the run that this one continues
            running = status is TaskStatus.PROCESSING
            assert numbers == list(range(1, int(str(attempt)) + 1 - running))
            outcomes = Counter(one[2] for one in history)
            assert outcomes[AttemptOutcome.COMPLETED] == (status is TaskStatus.COMPLETED)
            assert outcomes[AttemptOutcome.INTERRUPTED] == interruptions
            assert int(str(failures)) <= outcomes[AttemptOutcome.FAILED] + outcomes[AttemptOutcome.LEASE_EXPIRED] + 1

    @invariant()
    def a_stages_counter_is_its_open_tasks(self) -> None:
        for (job_id, number), (total, remaining, failed, _) in self.seen.stages.items():
            statuses = [task[2] for task in self.seen.tasks.values() if task[:2] == (job_id, number)]
            assert total == len(statuses)
            assert remaining == sum(status not in TERMINAL_TASK_STATUSES for status in statuses)
            assert failed == sum(status is TaskStatus.FAILED for status in statuses)

    @invariant()
    def only_a_running_task_has_an_owner(self) -> None:
        for task in self.seen.tasks.values():
            assert (task[6] is not None) == (task[2] is TaskStatus.PROCESSING)

    @invariant()
    def a_complete_stage_was_signalled(self) -> None:
        for (job_id, number), (_, remaining, _, finished) in self.seen.stages.items():
            status, current, *_ = self.seen.jobs[job_id]
            if remaining == 0 and status is JobStatus.PROCESSING:
                assert finished
                assert number < current or signals(self.seen, job_id, number) >= 1
            if self.before.stages.get((job_id, number), (0, -1))[1] == remaining != 0:
                assert signals(self.seen, job_id, number) == 0

    @invariant()
    def a_stage_is_signalled_once_unless_nothing_followed(self) -> None:
        for (job_id, number), (_, remaining, _, _) in self.seen.stages.items():
            new = signals(self.seen, job_id, number) - signals(self.before, job_id, number)
            known = self.before.stages.get((job_id, number))
            just_ended = remaining == 0 and (known is None or known[1] != 0)
            assert new in (0, 1)
            if new and not just_ended:  # the sweeper repeats it for a job that waits for its orchestrator
                assert self.seen.jobs[job_id][0] is JobStatus.PROCESSING
                assert self.seen.jobs[job_id][1] == number

    def teardown(self) -> None:
        """Whatever happened: with a network that works again, everything ends."""
        try:
            for _ in range(60):
                if all(job[0] in TERMINAL_JOB_STATUSES for job in self.seen.jobs.values()) and all(
                    task[2] in TERMINAL_TASK_STATUSES for task in self.seen.tasks.values()
                ):
                    break
                self.both(lambda world: world.backend.advance(144 * STEP))
                self.both(lambda world: world.sweep())
                self.both(lambda world: world.relay(True))
                while self.has_network:
                    self.both(lambda world: world.deliver(0, "ok", False))
                self.check_laws()
            else:
                raise AssertionError(f"not everything ended: {self.seen}")
        finally:
            for world in self.worlds:
                world.close()

    def check_laws(self) -> None:
        self.an_end_is_final()
        self.every_ended_attempt_is_recorded_once()
        self.a_stages_counter_is_its_open_tasks()
        self.only_a_running_task_has_an_owner()


def signals(seen: Seen, job_id: str, stage: int) -> int:
    """How many StageComplete messages were written for a stage."""
    return sum(
        '"stage_complete"' in message and job_id in message and f'"completed_stage":{stage}' in message
        for message in seen.messages
    )


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[Database]:
    """A database of this module's own, emptied before each example."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE stateful TEMPLATE {template_database}".encode())
    pool = ConnectionPoolManager(
        postgres_server.replace("/postgres?", "/stateful?"),
        PoolSettings(min_size=1, max_size=4, options={"options": "-c synchronous_commit=off"}),
    )
    yield Database(pool)
    pool.close()


def run(database: Database, examples: int, steps: int) -> None:
    def backends() -> list[Backend]:
        postgres = PostgresBackend(database, ())
        postgres.clear()
        return [MemoryBackend(()), postgres]

    run_state_machine_as_test(
        lambda: MachineOverStores(backends),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)  # hypothesis takes a timeout for a failing example, and goes on to shrink it
def test_both_stores_agree_and_the_laws_hold(database: Database) -> None:
    run(database, examples=25, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_both_stores_agree_and_the_laws_hold_for_long(database: Database) -> None:
    run(database, examples=400, steps=60)
