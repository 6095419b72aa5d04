"""The queue-polled mode under fire: real processes on the emulator, and PostgreSQL tells how it ended.

The full sizes are marked slow; a scaled-down one of each runs by default.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from queue_fleet import Fleet, fleet

from testing.emulator import EmulatorConfig, QueueConfig, ServiceBusEmulator

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

LOCK = timedelta(seconds=5)
WORK = "long-running-tasks"


def queues(lock: timedelta = LOCK) -> EmulatorConfig:
    names = ("geospatial-jobs", "geospatial-tasks", WORK)
    return EmulatorConfig(queues=tuple(QueueConfig(name=name, lock_duration=lock) for name in names))


@pytest.fixture(scope="module")
def two_workers(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """An orchestrator and two workers, for the tests that leave them alive."""
    root = tmp_path_factory.mktemp("fleet")
    with ServiceBusEmulator(queues()) as emulator, fleet(emulator, module_database, root, 2) as running:
        yield running


def run_chaos(running: Fleet, *, count: int, seconds: float, limit: float, kill_every: float) -> None:
    """Cut connections every second or two and kill a worker now and then, until the job has ended by itself."""
    rng = random.Random(7)
    emulator = running.emulator
    cuts = [emulator.drop_connections, emulator.close_connections, emulator.detach_links, emulator.expire_tokens]
    job = running.submit("queue_fan", name="chaos", count=count, seconds=seconds)
    next_cut = time.monotonic()
    next_kill = next_cut + kill_every / 2
    done = {"cuts": 0, "kills": 0}

    def trouble() -> None:
        nonlocal next_cut, next_kill
        now = time.monotonic()
        if now >= next_cut:
            rng.choice(cuts)()
            done["cuts"] += 1
            next_cut = now + rng.uniform(1, 3)
        if now >= next_kill:
            victim = rng.choice(running.workers)
            victim.kill()
            victim.start()
            done["kills"] += 1
            next_kill = now + rng.uniform(1, 2) * kill_every

    began = time.monotonic()
    running.wait(job, limit, trouble)
    print(f"{count} tasks in {time.monotonic() - began:.0f} s through {done['cuts']} cuts and {done['kills']} kills")
    assert done["kills"] >= 1
    assert done["cuts"] >= 3
    running.check_completed_once(job, count)


def test_a_task_longer_than_its_lock_completes_once_with_renewals_refused(two_workers: Fleet) -> None:
    long_task(two_workers, seconds=9)


def long_task(running: Fleet, *, seconds: float) -> None:
    """The lock ends, the other worker gets the message too, finds a live lease and lets go of it."""
    before = len(running.emulator.deliveries(WORK))
    running.emulator.refuse_renewals()
    job = running.submit("queue_fan", name=f"long {seconds}", count=1, seconds=seconds)
    running.wait(job, seconds * 3 + 30)
    running.emulator.refuse_renewals(0)
    running.check_completed_once(job, 1)
    assert running.rows("SELECT attempt FROM app.tasks WHERE job_id = %s", job) == [{"attempt": 1}]
    assert len(running.emulator.deliveries(WORK)) - before >= 2, "the lock was not lost"
    assert running.emulator.message_count(WORK) == 0


def test_a_handler_that_holds_the_interpreter_does_not_cost_the_lock(two_workers: Fleet) -> None:
    deliveries, renewals = (len(two_workers.emulator.deliveries(WORK)), len(two_workers.emulator.renewals(WORK)))
    job = two_workers.submit("queue_gil", name="gil", count=1, seconds=8)
    two_workers.wait(job, 60)
    two_workers.check_completed_once(job, 1)
    assert len(two_workers.emulator.deliveries(WORK)) - deliveries == 1
    renewed = two_workers.emulator.renewals(WORK)[renewals:]
    assert len(renewed) >= 3
    assert all(renewal.refused is None for renewal in renewed)


def test_a_queue_purged_in_mid_job_does_not_stop_the_job(two_workers: Fleet) -> None:
    job = two_workers.submit("queue_fan", name="purged", count=12, seconds=0.5)
    purged: list[int] = []

    def purge_once() -> None:
        if not purged and two_workers.completed(job) >= 2:
            purged.append(sum(two_workers.emulator.purge(name) for name in ("geospatial-jobs", WORK)))

    two_workers.wait(job, 90, purge_once)
    assert purged[0] > 0
    two_workers.check_completed_once(job, 12)


def test_health_and_metrics_tell_what_a_polling_worker_does(two_workers: Fleet) -> None:
    job = two_workers.submit("queue_fan", name="shown", count=4, seconds=2)
    urls = [worker.url() for worker in two_workers.workers]
    seen: list[dict[str, object]] = []

    def look() -> None:
        seen.extend(httpx.get(f"{url}/health").json()["background_workers"]["queue_worker"] for url in urls)

    two_workers.wait(job, 60, look)
    look()
    assert all(view["running"] and view["connected"] and view["last_poll_at"] for view in seen)
    assert all(view["last_error"] is None for view in seen)
    assert any(view["current_tasks"] for view in seen)
    assert sum(int(str(view["messages_processed"])) for view in seen[-2:]) >= 4
    metrics = "".join(httpx.get(f"{url}/metrics").text for url in urls)
    for name in ("lock_renewals", "redelivered", "locks_lost", "connects"):
        assert f'geoworker_worker_{name}_total{{worker="queue_worker"}}' in metrics


def test_a_polling_worker_stops_at_once(two_workers: Fleet) -> None:
    """SIGTERM in the middle of a long poll: the poll ends within a second, and the process with it soon after."""
    worker = two_workers.workers[1]
    worker.url()
    worker.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert worker.process.wait(20) == 0
    assert time.monotonic() - began < 8  # the SDK takes a second to close, and this machine may be busy
    worker.start()
    worker.url()


def test_tasks_complete_exactly_once_while_connections_drop_and_workers_die(two_workers: Fleet) -> None:
    run_chaos(two_workers, count=45, seconds=0.2, limit=200, kill_every=6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_hundred_tasks_complete_exactly_once(database_url: str, tmp_path: Path) -> None:
    with ServiceBusEmulator(queues()) as emulator, fleet(emulator, database_url, tmp_path, 3) as running:
        run_chaos(running, count=500, seconds=0.2, limit=700, kill_every=8)


@pytest.mark.slow
def test_a_task_of_a_minute_under_a_lock_of_five_seconds(two_workers: Fleet) -> None:
    long_task(two_workers, seconds=60)
