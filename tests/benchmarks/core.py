"""Throughput, idle latency and fan-out of the machine, beside procrastinate and the physical floor, in one run.

Run: ``python -m tests.benchmarks.core`` (see README.md here). Every figure is the median of several rounds, and the
floor (two durable commits a task, one connection) is measured in the same minute, because it moves with the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg

from app.composition import Application, compose
from app.role import Role
from app.settings import Settings
from core.docker_context import DockerTaskContext
from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.records import RunsOn, TaskPlan
from core.states import TERMINAL_JOB_STATUSES
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.migrations import migrate

started_at: dict[str, float] = {}
about_to_end = threading.Event()


class Noop(JobParameters):
    n: int = 1
    tag: str = ""


def noop(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    started_at.setdefault(context.job_id, time.perf_counter())
    return {"success": True}


class NoopJob(JobDefinition[Noop]):
    job_type = "noop"
    parameters = Noop
    stages = (
        Stage(number=1, name="work", task_type="noop", runs_on=RunsOn.FUNCTIONS),
        Stage(number=2, name="gather", task_type="noop", runs_on=RunsOn.FUNCTIONS),
    )

    def plan(self, stage: Stage, parameters: Noop, previous: Any) -> list[TaskPlan]:
        return [TaskPlan(parameters={})] * (parameters.n if stage.number == 1 else 1)

    def finalize(self, parameters: Noop, results: Any) -> dict[str, Any]:
        about_to_end.set()
        return {"tasks": len(results)}


class SingleJob(NoopJob):
    job_type = "single"
    plans_at_submission = True
    stages = (Stage(number=1, name="work", task_type="noop", runs_on=RunsOn.FUNCTIONS),)


@contextmanager
def running(url: str, data: Path, threads: int) -> Iterator[Application]:
    from app import composition

    jobs, handlers = composition.job_registry, composition.handler_registry
    composition.job_registry = lambda: JobRegistry((NoopJob(), SingleJob()))
    composition.handler_registry = lambda: HandlerRegistry((HandlerSpec(task_type="noop", handler=noop),))
    settings = Settings.from_env({}, data_dir=data, functions_concurrency=threads, log_level="ERROR")
    application = compose(settings, Role.EMBEDDED, database_url=url)
    composition.job_registry, composition.handler_registry = jobs, handlers
    migrate(application.database)
    application.lifecycle.start()
    try:
        yield application
    finally:
        application.lifecycle.drain()


def wait(application: Application, job_id: str) -> None:
    """Until the job has ended; asks the database nothing before its end is near."""
    about_to_end.wait()
    while True:
        job = application.store.get_job(job_id)
        assert job is not None
        if job.status in TERMINAL_JOB_STATUSES:
            about_to_end.clear()
            return
        time.sleep(0.001)


def floor(url: str, tasks: int = 300) -> float:
    """Two durable commits a task through one connection: claim, then complete with a counter."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS floor_task, floor_stage")
        connection.execute("CREATE TABLE floor_task (id int PRIMARY KEY, status text, attempt int DEFAULT 0)")
        connection.execute("CREATE TABLE floor_stage (id int PRIMARY KEY, remaining int)")
        connection.execute("INSERT INTO floor_task SELECT g, 'queued' FROM generate_series(1, %s) g", [tasks])
        connection.execute("INSERT INTO floor_stage VALUES (1, %s)", [tasks])
        began = time.perf_counter()
        for number in range(1, tasks + 1):
            connection.execute(
                "UPDATE floor_task SET status='processing', attempt=attempt+1 WHERE id=%s RETURNING attempt", [number]
            ).fetchone()
            connection.execute(
                "WITH d AS (UPDATE floor_task SET status='completed' WHERE id=%s AND attempt=1 RETURNING 1)"
                " UPDATE floor_stage SET remaining=remaining-1 FROM d WHERE id=1 RETURNING remaining",
                [number],
            ).fetchone()
        return tasks / (time.perf_counter() - began)


def throughput(application: Application, tasks: int) -> float:
    """Tasks a second from submit to the end of a job of ``tasks`` no-ops (planning and fan-in included)."""
    began = time.perf_counter()
    submitted = application.machine.submit_job("noop", {"n": tasks, "tag": str(began)})
    wait(application, submitted.job.job_id)
    return tasks / (time.perf_counter() - began)


def in_memory(tasks: int) -> tuple[float, float]:
    """Tasks of the test kit a second and a CPU second: store, queue and handler in one thread, submit to job's end."""
    from testing import create_workbench

    bench = create_workbench(
        jobs=JobRegistry((NoopJob(),)), handlers=HandlerRegistry((HandlerSpec(task_type="noop", handler=noop),))
    )
    began, cpu = time.perf_counter(), time.process_time()
    assert bench.finish(bench.submit("noop", {"n": tasks}).job_id).succeeded
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    bench.close()
    about_to_end.clear()
    return tasks / took, tasks / cpu


def latency(application: Application, times: int) -> list[float]:
    """Milliseconds from submit to the handler's start, idle."""
    found = []
    for number in range(times):
        time.sleep(0.02)
        tag = f"latency {number} {time.perf_counter()}"
        began = time.perf_counter()
        job = application.machine.submit_job("single", {"tag": tag}).job
        wait(application, job.job_id)
        found.append((started_at[job.job_id] - began) * 1000)
    return found


def idle_commit(url: str, times: int) -> list[float]:
    """Milliseconds of one durable commit after the same pause as before each job of :func:`latency`: the machine's part
    of the idle latency, which has two of them."""
    found = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS idle_commit (id int)")
        for number in range(times):
            time.sleep(0.02)
            began = time.perf_counter()
            connection.execute("INSERT INTO idle_commit VALUES (%s)", [number])
            found.append((time.perf_counter() - began) * 1000)
    return found


def procrastinate_figures(url: str, tasks: int, times: int) -> dict[str, Any]:
    """The same of procrastinate: ``tasks`` no-ops with concurrency 10, and idle latency."""
    import procrastinate

    async def measure() -> dict[str, Any]:
        application = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
        starts: list[float] = []

        @application.task(name="noop")
        async def task() -> None:
            starts.append(time.perf_counter())

        async with application.open_async():
            await application.schema_manager.apply_schema_async()
            deferred = time.perf_counter()
            await task.batch_defer_async(*({} for _ in range(tasks)))
            began = time.perf_counter()
            await application.run_worker_async(wait=False, concurrency=10, install_signal_handlers=False)
            ended = time.perf_counter()
            worker = asyncio.create_task(
                application.run_worker_async(wait=True, concurrency=10, install_signal_handlers=False)
            )
            await asyncio.sleep(0.5)
            delays = []
            for _ in range(times):
                await asyncio.sleep(0.02)
                starts.clear()
                asked = time.perf_counter()
                await task.defer_async()
                while not starts:
                    await asyncio.sleep(0.0005)
                delays.append((starts[0] - asked) * 1000)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        return {"tasks_per_second": tasks / (ended - began), "fan_out_seconds": ended - deferred, "latency_ms": delays}

    return asyncio.run(measure())


def written(url: str) -> int:
    """How many transactions have written so far."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        return int(row[0])


def fresh(server: str, name: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres?", f"/{name}?")


def median_of(rounds: int, measure: Callable[[], float]) -> tuple[float, list[float]]:
    found = [measure() for _ in range(rounds)]
    return statistics.median(found), found


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        address = server.start()
        url = fresh(address, "bench")
        floors = [floor(url)]
        with running(url, Path(directory), options.threads) as application:
            throughput(application, 200)
            before, cpu = written(url), time.process_time()
            rate, rates = median_of(options.rounds, lambda: throughput(application, options.tasks))
            commits, cpu = written(url) - before, time.process_time() - cpu
            delays = sorted(latency(application, 100))
        commits_idle = sorted(idle_commit(url, 100))
        floors.append(floor(url))
        peer_url = fresh(address, "peer")
        peers = [procrastinate_figures(fresh(address, "peer"), options.tasks, 50) for _ in range(options.rounds)]
        floors.append(floor(peer_url))
        server.stop()
    floor_rate = statistics.median(floors)
    memory = {tasks: [in_memory(tasks) for _ in range(5 * options.rounds)] for tasks in (1_000, 10_000)}
    peer_rate = statistics.median(peer["tasks_per_second"] for peer in peers)
    peer_delays = sorted(delay for peer in peers for delay in peer["latency_ms"])
    print(
        json.dumps(
            {
                "load": [round(value, 1) for value in (load_before, os.getloadavg()[0])],
                "python": platform.python_version(),
                "peer": f"procrastinate {metadata.version('procrastinate')}, concurrency 10",
                "threads": options.threads,
                "floor_tasks_per_second": [round(value) for value in floors],
                "tasks_per_second": {"median": round(rate), "rounds": [round(value) for value in rates]},
                "fan_out_seconds": round(options.tasks / rate, 3),
                "ratio_to_floor": round(rate / floor_rate, 2),
                "commits_per_task": round(commits / (options.rounds * options.tasks), 2),
                "own_cpu_ms_per_task": round(1000 * cpu / (options.rounds * options.tasks), 3),
                "in_memory_tasks_per_second": {
                    tasks: {
                        "best": round(max(rate for rate, _ in rounds)),
                        "median": round(statistics.median(rate for rate, _ in rounds)),
                        "best_per_cpu_second": round(max(rate for _, rate in rounds)),
                    }
                    for tasks, rounds in memory.items()
                },
                "latency_ms": {"p50": round(delays[50], 2), "p99": round(delays[98], 2)},
                "idle_commit_ms": {"p50": round(commits_idle[50], 2), "p99": round(commits_idle[98], 2)},
                "peer_tasks_per_second": round(peer_rate),
                "peer_ratio_to_floor": round(peer_rate / floor_rate, 2),
                "peer_fan_out_seconds": round(statistics.median(peer["fan_out_seconds"] for peer in peers), 3),
                "peer_latency_ms": {
                    "p50": round(peer_delays[len(peer_delays) // 2], 2),
                    "p99": round(peer_delays[int(len(peer_delays) * 0.99) - 1], 2),
                },
                "times_as_fast": round(rate / peer_rate, 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
