"""Latency of the durable 202 under evenly arriving requests (open loop), and from POST to handler start when idle.

Run: ``python -m tests.benchmarks.http_latency [--seconds 10] [--rates 200,400,...]``, on an embedded PostgreSQL.

The worker is the real process (``geoworker worker``, http_trigger mode) with a task running; what is posted waits in
its inbox. Requests leave at their appointed times whether or not earlier ones were answered (no coordinated omission),
on kept-alive connections, and latency is counted from the appointed time. The generator is one asyncio process that
writes HTTP/1.1 itself, to cost as little as possible of the machine that it shares with the worker. ``floor`` is a
durable commit of one row on one connection in the same minute: the least that a durable 202 can cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.geoworker_process import Process, wait_ready

_CONNECTIONS = 64
_LIMIT_MS = 100.0
_IDLE_ROUNDS = 60
_WARM_UP_SECONDS = 2.0  # connections of the pool are opened and statements prepared


@dataclass(frozen=True, slots=True)
class Figures:
    """Latencies of one rate, milliseconds; the worker's CPU seconds for each request."""

    rate: int
    sent: int
    failed: int
    p50: float
    p99: float
    worst: float
    worker_cpu_ms: float

    def line(self) -> str:
        return (
            f"{self.rate:5} req/s: p50 {self.p50:7.1f} ms, p99 {self.p99:7.1f} ms, max {self.worst:7.1f} ms, "
            f"failed {self.failed}, worker CPU {self.worker_cpu_ms:.2f} ms a request"
        )


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: bytes) -> int:
        """The status of the answer."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        told = answer.decode("latin-1").split("\r\n")
        length = next(int(line.split(":")[1]) for line in told if line.lower().startswith("content-length:"))
        await self._reader.readexactly(length)
        return int(told[0].split()[1])

    def close(self) -> None:
        self._writer.close()


async def open_loop(port: int, rate: int, seconds: float, worker_pid: int) -> Figures:
    """POST ``rate`` tasks a second, evenly, for ``seconds``."""
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    connections = [Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    for connection in connections:
        idle.put_nowait(connection)
    latencies: list[float] = []
    failed = 0
    run = f"{rate}-{time.monotonic_ns()}"

    async def one(number: int, due: float) -> None:
        nonlocal failed
        body = json.dumps({"task_id": f"bench-{run}-{number}", "task_type": "hello_world_greeting", "params": {}})
        connection = await idle.get()
        try:
            status = await connection.post("/task/start", body.encode())
        finally:
            idle.put_nowait(connection)
        latencies.append((time.perf_counter() - due) * 1000)
        failed += status != 202

    count = int(rate * seconds)
    cpu = cpu_seconds(worker_pid)
    began = time.perf_counter() + 0.1
    running: set[asyncio.Task[None]] = set()
    for number in range(count):
        due = began + number / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    cpu = cpu_seconds(worker_pid) - cpu
    for connection in connections:
        connection.close()
    ordered = sorted(latencies)
    return Figures(
        rate=rate,
        sent=count,
        failed=failed,
        p50=ordered[len(ordered) // 2],
        p99=ordered[int(len(ordered) * 0.99)],
        worst=ordered[-1],
        worker_cpu_ms=cpu * 1000 / count,
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def commit_floor(database_url: str, rounds: int = 300) -> float:
    """Median time of one durable single-row commit, milliseconds."""
    times = []
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.floor (n bigint)")
        for number in range(rounds):
            began = time.perf_counter()
            connection.execute("INSERT INTO public.floor VALUES (%s)", [number])
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def start_latencies(url: str) -> list[float]:
    """From sending the POST to the start of the handler in its child, milliseconds, with nothing else to do."""
    found = []
    with httpx.Client(base_url=url) as client:
        for number in range(_IDLE_ROUNDS):
            body = {"task_id": f"idle-{number}", "task_type": "benchmark_clock", "params": {}}
            began = time.time()
            client.post("/task/start", json=body).raise_for_status()
            time.sleep(0.1)
            while (answer := client.get(f"/task/idle-{number}")).status_code == httpx.codes.ACCEPTED:
                time.sleep(0.02)
            found.append((answer.json()["result"]["started_at"] - began) * 1000)
    return found


def measure(rates: list[int], seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory, "postgres"))
        database_url = server.start()
        environment = {
            "DATABASE_URL": database_url,
            "DATA_DIR": directory,
            "DOCKER_ORCHESTRATION_MODE": "http_trigger",
            "MAX_BACKLOG": "1000000",
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        worker = Process(
            "worker",
            environment=environment,
            log=Path(directory, "worker.log"),
            python=("-m", "tests.benchmarks.clock_worker"),
        )
        try:
            wait_ready(worker.url)
            print(f"floor: a durable commit takes {commit_floor(database_url):.2f} ms (median)")
            idle = sorted(start_latencies(worker.url)[5:])
            middle, slow = idle[len(idle) // 2], idle[int(len(idle) * 0.9)]
            print(f"idle, POST to handler start: p50 {middle:.1f} ms, p90 {slow:.1f} ms")
            body = {"task_id": "running", "task_type": "benchmark_stay", "params": {}}
            httpx.post(f"{worker.url}/task/start", json=body).raise_for_status()
            port = int(worker.url.rsplit(":", 1)[1])
            held = 0
            warm_up = asyncio.run(open_loop(port, rates[0], _WARM_UP_SECONDS, worker.process.pid))
            print(f"warm-up, {warm_up.line().strip()}")
            for rate in rates:
                figures = asyncio.run(open_loop(port, rate, seconds, worker.process.pid))
                print(figures.line(), flush=True)
                if figures.p99 > _LIMIT_MS or figures.failed:
                    break
                held = rate
            print(f"highest rate held with a p99 below {_LIMIT_MS:.0f} ms: {held} req/s")
            print(f"load average of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        finally:
            worker.kill()
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each rate")
    parser.add_argument("--rates", default="50,200,300,400,600,800", help="requests a second, rising")
    arguments = parser.parse_args()
    measure([int(rate) for rate in arguments.rates.split(",")], arguments.seconds)


if __name__ == "__main__":
    main()
