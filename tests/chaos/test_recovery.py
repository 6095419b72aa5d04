"""kill -9 at random points of a checkpointed task on a real PostgreSQL."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import chaos_worker
import pytest
from chaos_harness import wait_until

from core.machine import CoreMachine
from core.messages import JobMessage
from core.records import AttemptOutcome, TaskQuery, TaskRecord
from core.states import TERMINAL_TASK_STATUSES, JobStatus, TaskStatus
from infrastructure.postgres.sweep_store import PostgresSweepStore

pytestmark = pytest.mark.chaos

_ITEMS = 200
_SECONDS = 0.015
_KILLS = 4


@dataclass(frozen=True)
class Line:
    number: int
    attempt: int
    moment: float
    pid: int


def read_history(effects: Path) -> list[Line]:
    try:
        lines = (effects / "history").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [
        Line(int(number), int(attempt), float(moment), int(pid))
        for number, attempt, moment, pid in (line.split() for line in lines)
    ]


def test_a_task_that_has_killed_its_worker_three_times_is_failed(database_url: str, tmp_path: Path) -> None:
    machine, sweeps = chaos_worker.build(database_url, str(tmp_path), "submitter")
    job = machine.submit_job("chaos_kill_the_worker", {"parameters": {}}).job
    machine.process_job_message(JobMessage(job_id=job.job_id, job_type=job.job_type))
    (task,) = machine.store.list_tasks(TaskQuery(job_id=job.job_id))
    while not _ended(machine, task):
        worker = subprocess.Popen([sys.executable, chaos_worker.__file__, database_url, str(tmp_path), job.job_id])
        try:
            assert worker.wait(30) == -signal.SIGKILL
        finally:
            worker.kill()
        wait_until(lambda: _swept_until(sweeps, lambda: not _runs(machine, task)), 30)
    ended = machine.store.get_task(task.task_id)
    assert ended is not None
    assert (ended.status, ended.failures) == (TaskStatus.FAILED, 3)
    assert ended.error_details is not None
    assert "lease" in ended.error_details.message
    attempts = machine.store.list_attempts(task.task_id)
    assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.LEASE_EXPIRED] * 3
    assert len({attempt.worker_id for attempt in attempts}) == 3
    assert machine.store.get_job(job.job_id).status is JobStatus.FAILED  # type: ignore[union-attr]
    machine.close()


def _swept_until(sweeps: PostgresSweepStore, condition: Callable[[], bool]) -> bool:
    sweeps.sweep(limit=100)
    return condition()


def _runs(machine: CoreMachine, task: TaskRecord) -> bool:
    return machine.store.get_task(task.task_id).status is TaskStatus.PROCESSING  # type: ignore[union-attr]


def _ended(machine: CoreMachine, task: TaskRecord) -> bool:
    return machine.store.get_task(task.task_id).status in TERMINAL_TASK_STATUSES  # type: ignore[union-attr]


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_kill_9_at_random_points_redoes_at_most_the_unsaved_second(
    database_url: str, tmp_path: Path, victim: str
) -> None:
    effects = tmp_path / "effects"
    machine, _ = chaos_worker.build(database_url, str(tmp_path), "submitter")
    job = machine.submit_job("chaos_items", {"effects": str(effects), "count": _ITEMS, "seconds": _SECONDS}).job
    machine.process_job_message(JobMessage(job_id=job.job_id, job_type=job.job_type))
    (task,) = machine.store.list_tasks(TaskQuery(job_id=job.job_id))

    def start() -> subprocess.Popen[bytes]:
        program = [sys.executable, chaos_worker.__file__, database_url, str(tmp_path), job.job_id]
        return subprocess.Popen(program)

    rng = random.Random(f"{victim} {time.time_ns() if os.environ.get('CHAOS_RANDOM') else 7}")
    kills: dict[int, float] = {}
    worker = start()
    try:
        for _ in range(_KILLS):
            attempt = max(kills, default=0) + 1
            wait_until(lambda: any(line.attempt >= attempt for line in read_history(effects)), 30)  # noqa: B023
            time.sleep(rng.uniform(0.0, 1.2 * _ITEMS * _SECONDS / _KILLS))
            last = read_history(effects)[-1]
            if machine.store.get_task(task.task_id).status in TERMINAL_TASK_STATUSES:  # type: ignore[union-attr]
                break
            os.kill(last.pid if victim == "child" else worker.pid, signal.SIGKILL)
            kills[last.attempt] = time.monotonic()
            if victim == "worker":
                worker.wait(5)
                worker = start()
        wait_until(lambda: machine.store.get_task(task.task_id).status in TERMINAL_TASK_STATUSES, 60)  # type: ignore[union-attr]
    finally:
        worker.kill()
        worker.wait(5)
    ended = machine.store.get_task(task.task_id)
    assert ended is not None
    assert ended.status is TaskStatus.COMPLETED
    assert ended.result_data is not None
    assert ended.result_data["items"] == _ITEMS
    assert sorted(path.name for path in effects.glob("item-*")) == sorted(f"item-{n}" for n in range(_ITEMS))
    assert len(kills) >= 2

    history = read_history(effects)
    by_number: dict[int, list[Line]] = {}
    for line in history:
        by_number.setdefault(line.number, []).append(line)
    for lines in by_number.values():
        assert len({line.attempt for line in lines}) == len(lines)  # once an attempt
        for redone in lines[:-1]:
            # begun at most an item and the unsaved second (plus its write) before the kill
            assert kills[redone.attempt] - redone.moment < 1.0 + _SECONDS + 0.6

    attempts = machine.store.list_attempts(task.task_id)
    story = [attempt.outcome for attempt in attempts]
    assert story[-1] is AttemptOutcome.COMPLETED
    expected = AttemptOutcome.FAILED if victim == "child" else AttemptOutcome.LEASE_EXPIRED
    assert story[:-1] == [expected] * len(kills)
    if victim == "child":
        assert {attempt.error_details.code for attempt in attempts[:-1] if attempt.error_details} == {
            "KILLED_BY_SIGKILL"
        }
    machine.close()
