"""202 is durable: the worker is killed with SIGKILL at random moments while tasks are posted to it (F28, F29)."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.geoworker_process import Process, free_port, wait_ready

QUICK = {"LEASE_SECONDS": "2", "HEARTBEAT_SECONDS": "0.5", "SWEEP_SECONDS": "0.5", "HINT_SECONDS": "1"}


class MortalWorker:
    """A worker on a fixed port, killed and started again by a thread."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory
        self._port = free_port()
        self._lives = 0
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = self._start()

    def _start(self) -> Process:
        self._lives += 1
        log = self._directory / f"worker-{self._lives}.log"
        return Process("worker", environment=self._environment, log=log, port=self._port)

    def kill_and_restart(self) -> None:
        self.process.kill()
        self.process = self._start()


class Poster(threading.Thread):
    """POSTs tasks one after the other; one that gets no answer is posted again until it does."""

    def __init__(self, url: str, task_ids: list[str], pause: float) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._task_ids = task_ids
        self._pause = pause
        self.accepted: list[str] = []
        self.posts = 0
        self.unanswered = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for task_id in self._task_ids:
                self._post(task_id)
                time.sleep(self._pause)
        except BaseException as error:
            self.error = error

    def _post(self, task_id: str) -> None:
        # Dying with the worker counts as an attempt; here that is the test's doing and not the task's.
        body = {
            "task_id": task_id,
            "task_type": "hello_world_greeting",
            "params": {"message": task_id},
            "max_attempts": 100,
        }
        give_up_at = time.monotonic() + 120
        while time.monotonic() < give_up_at:
            self.posts += 1
            try:
                answer = httpx.post(f"{self._url}/task/start", json=body, timeout=30)
            except httpx.HTTPError:
                self.unanswered += 1
                time.sleep(0.05)
                continue
            assert answer.status_code == 202, answer.text
            self.accepted.append(task_id)
            return
        raise AssertionError(f"{task_id} was never answered")


def survive(database_url: str, directory: Path, *, tasks: int, kills: int, seed: int) -> dict[str, Any]:
    """Post, kill, restart; then wait until everything that was accepted has ended, and count how often it ran."""
    rng = random.Random(seed)
    environment = {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(directory),
        "DOCKER_ORCHESTRATION_MODE": "http_trigger",
        "WORKER_CONCURRENCY": "2",
        "MAX_BACKLOG": "100000",
        **QUICK,
    }
    worker = MortalWorker(environment, directory)
    try:
        wait_ready(worker.url)
        names = [f"task-{number:04}" for number in range(tasks)]
        posters = [Poster(worker.url, names[start::4], pause=0.01) for start in range(4)]
        for poster in posters:
            poster.start()
        for _ in range(kills):
            time.sleep(rng.uniform(0.1, 1.5))
            worker.kill_and_restart()
        for poster in posters:
            poster.join(300)
            assert not poster.is_alive()
            assert poster.error is None, poster.error
        accepted = sorted(name for poster in posters for name in poster.accepted)
        assert accepted == names
        _wait_until_ended(database_url, tasks)
    finally:
        worker.process.kill()
    with psycopg.connect(database_url) as connection:
        statuses = dict(connection.execute("SELECT task_id, status FROM app.tasks").fetchall())
        greetings = dict(connection.execute("SELECT task_id, result_data->>'greeting' FROM app.tasks").fetchall())
        completions = Counter(
            task_id
            for (task_id,) in connection.execute("SELECT task_id FROM app.task_attempts WHERE outcome = 'completed'")
        )
        crashes = connection.execute("SELECT count(*) FROM app.task_attempts WHERE outcome <> 'completed'").fetchone()
    assert statuses == dict.fromkeys(names, "completed")
    assert completions == dict.fromkeys(names, 1)
    assert all(greeting.startswith(name) for name, greeting in greetings.items())
    return {
        "posts": sum(poster.posts for poster in posters),
        "unanswered": sum(poster.unanswered for poster in posters),
        "interrupted_attempts": crashes[0] if crashes else 0,
    }


def _wait_until_ended(database_url: str, tasks: int, patience: float = 240) -> None:
    give_up_at = time.monotonic() + patience
    query = "SELECT status, count(*) FROM app.tasks GROUP BY status"
    with psycopg.connect(database_url, autocommit=True) as connection:
        while time.monotonic() < give_up_at:
            counts = dict(connection.execute(query).fetchall())
            if set(counts) <= {"completed", "failed", "cancelled"} and sum(counts.values()) == tasks:
                return
            time.sleep(0.2)
    raise AssertionError(f"not everything ended: {counts}")


@pytest.mark.timeout(300)
def test_every_202_completes_exactly_once_though_the_worker_is_killed(database_url: str, tmp_path: Path) -> None:
    figures = survive(database_url, tmp_path, tasks=80, kills=2, seed=7)
    print(figures)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_202s_complete_exactly_once_though_the_worker_is_killed_ten_times(
    database_url: str, tmp_path: Path
) -> None:
    figures = survive(database_url, tmp_path, tasks=1000, kills=10, seed=11)
    print(figures)
    assert figures["unanswered"] > 0


def test_a_post_whose_answer_was_lost_may_be_sent_again_and_runs_once(database_url: str, tmp_path: Path) -> None:
    """F28: the client gave up waiting after the server had accepted; it posts again, also to another worker."""
    environment = {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "DOCKER_ORCHESTRATION_MODE": "http_trigger",
        **QUICK,
    }
    first = Process("worker", environment=environment, log=tmp_path / "first.log")
    second = Process("worker", environment=environment, log=tmp_path / "second.log")
    try:
        body = {"task_id": "lost-answer", "task_type": "hello_world_greeting", "params": {}}
        wait_ready(first.url)
        wait_ready(second.url)
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{first.url}/task/start", json=body, timeout=httpx.Timeout(10, read=0.0001))
        for url in (first.url, second.url, first.url):
            assert httpx.post(f"{url}/task/start", json=body).status_code == 202
        _wait_until_ended(database_url, 1)
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT outcome FROM app.task_attempts").fetchall() == [("completed",)]
        for url in (first.url, second.url):
            assert httpx.get(f"{url}/task/lost-answer").json()["status"] == "completed"
    finally:
        first.kill()
        second.kill()
