"""kill -9 in each gap between a commit and what follows it, with a broker that keeps what was not settled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import chaos_gaps
import pytest
from chaos_harness import is_alive, wait_until

from core.jobs import job_fingerprint
from core.messages import Channel, StageComplete, decode
from core.records import AttemptOutcome, TaskQuery
from core.states import JobStatus, TaskStatus
from infrastructure.postgres.database import Database
from infrastructure.postgres.jsonb import dumps
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from testing.emulator import DEFAULT_QUEUES, EmulatorConfig, QueueConfig, ServiceBusEmulator

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Callable[..., int]]:
    """Forks processes that have imported everything already."""
    program = [sys.executable, chaos_gaps.__file__]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pids: list[int] = []

        def fork(**arguments: str) -> int:
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            pids.append(int(process.stdout.readline()))
            return pids[-1]

        yield fork
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.stdin.close()


@pytest.fixture
def bus() -> Iterator[ServiceBusEmulator]:
    queues = tuple(QueueConfig(name=name, lock_duration=timedelta(seconds=2)) for name in DEFAULT_QUEUES)
    with ServiceBusEmulator(EmulatorConfig(queues=queues)) as emulator:
        yield emulator


@pytest.mark.parametrize("gap", [gap for gap in chaos_gaps.GAPS if gap != "none"])
def test_a_kill_in_this_gap_loses_nothing_and_completes_nothing_twice(  # noqa: PLR0917 - fixtures
    zygote: Callable[..., int],
    bus: ServiceBusEmulator,
    database_url: str,
    database: Database,
    tmp_path: Path,
    gap: str,
) -> None:
    arguments = {"url": database_url, "bus": bus.connection_string, "root": str(tmp_path)}
    store = PostgresStateStore(database, StoreOptions(worker_id="test"))
    job_id = job_fingerprint("gaps", {"root": str(tmp_path)})
    # A sweep needs something to recover: an execution that has died before.
    for victim_gap in ("after a claim", gap) if gap == "in the middle of a sweep" else (gap,):
        victim = zygote(gap=victim_gap, **arguments)
        wait_until(lambda: not is_alive(victim), 60)  # noqa: B023 - called within its turn
    survivor = zygote(gap="none", **arguments)

    def ended() -> bool:
        job = store.get_job(job_id)
        return job is not None and job.status is JobStatus.COMPLETED

    wait_until(ended, 100)
    job = store.get_job(job_id)
    assert job is not None
    assert (job.run, job.result_data) == (1, {"last": [{"success": True, "name": f"b{chaos_gaps.TASKS}"}]})
    tasks = store.list_tasks(TaskQuery(job_id=job_id))
    assert [task.status for task in tasks] == [TaskStatus.COMPLETED] * (chaos_gaps.TASKS + 1)
    crashed = 0
    for task in tasks:
        story = [attempt.outcome for attempt in store.list_attempts(task.task_id)]
        assert story.count(AttemptOutcome.COMPLETED) == 1
        assert story[-1] is AttemptOutcome.COMPLETED
        crashed += story.count(AttemptOutcome.LEASE_EXPIRED)
        assert len(story) == task.attempt == task.failures + 1
    assert crashed == (gap in (*chaos_gaps.IN_AN_EXECUTION, "in the middle of a sweep"))
    # The body of the one task that ran when the process died may have run twice; no other did.
    marks = Counter(line.split()[0] for line in (tmp_path / "effects").read_text().splitlines())
    assert set(marks) == {*(f"a{number}" for number in range(chaos_gaps.TASKS)), f"b{chaos_gaps.TASKS}"}
    assert sum(marks.values()) == len(tasks) + (gap == "after the side effect, before the completion")
    assert [stage.total for stage in store.list_stages(job_id)] == [chaos_gaps.TASKS, 1]
    rows = database.rows("SELECT channel, message FROM app.outbox")
    signals = Counter(
        message.completed_stage
        for row in rows
        if row["channel"] == Channel.JOBS and isinstance(message := decode(dumps(row["message"])), StageComplete)
    )
    assert set(signals) == {1, 2}
    assert not any(bus.dead_letters(queue) for queue in DEFAULT_QUEUES)
    os.kill(survivor, signal.SIGKILL)
