"""A bootstrap that is killed at random points, stopped in mid-cascade and resumed ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infrastructure.connection_pool import ConnectionPoolManager
from infrastructure.postgres.database import Database
from infrastructure.postgres.h3_store import PostgresGridStore
from tests.h3_support import Task

PARAMETERS = {
    "area": "RWA",
    "grid_id": "rwanda",
    "target_resolutions": [3, 4, 5, 6, 7, 8, 9],
    "batch_cells": 20_000,
    "picture": False,
}
KILLS = 10


class Run:
    """Attempts at one bootstrap, each in a process of its own."""

    def __init__(self, url: str, directory: Path) -> None:
        directory.mkdir()
        self.url, self.directory = url, directory
        self.log = directory / "batches.log"

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.integration.h3.bootstrap_process",
                self.url,
                str(self.directory),
                json.dumps(PARAMETERS),
            ]
        )

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for_lines(self, more_than: int, process: subprocess.Popen[bytes]) -> None:
        while len(self.lines()) <= more_than and process.poll() is None:
            time.sleep(0.005)

    def made(self) -> Counter[str]:
        return Counter(line for line in self.lines() if line.startswith("made"))


def table(database: Database) -> list[Any]:
    """Everything in the table, in order, as the server digests it."""
    return database.rows(
        "SELECT resolution, count(*) AS cells,"
        " md5(string_agg(h3::text || ',' || parent::text, ';' ORDER BY h3)) AS digest"
        " FROM h3.cells GROUP BY resolution ORDER BY resolution"
    )


@pytest.fixture
def undisturbed(make_database: Callable[[], str], tmp_path: Path) -> list[Any]:
    pool = ConnectionPoolManager(make_database())
    try:
        database = Database(pool)
        Task("h3_bootstrap_complete", PARAMETERS, tmp_path / "whole", PostgresGridStore(database)).result()
        return table(database)
    finally:
        pool.close()


def test_ten_kills_cost_a_batch_each_and_change_nothing(
    undisturbed: list[Any], database_url: str, database: Database, tmp_path: Path
) -> None:
    run = Run(database_url, tmp_path / "killed")
    rng = random.Random(20_251)
    kills = 0
    for _ in range(3 * KILLS):
        before = len(run.lines())
        process = run.start()
        run.wait_for_lines(before + rng.randint(0, 6), process)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        kills += process.wait(30) == -signal.SIGKILL
        if kills == KILLS:
            break
    assert kills == KILLS, "the bootstrap ended before it could be killed often enough"
    assert run.start().wait(60) == 0
    assert table(database) == undisturbed
    redone = {batch: times - 1 for batch, times in run.made().items() if times > 1}
    assert sum(redone.values()) <= kills, redone
    assert sum(row["cells"] for row in undisturbed) == 247_391


def test_a_kill_while_the_grid_is_published_changes_nothing(
    undisturbed: list[Any], database_url: str, database: Database, tmp_path: Path
) -> None:
    run = Run(database_url, tmp_path / "killed")
    for pause in (0.0, 0.02, 0.06):
        before = run.lines().count("publish")
        process = run.start()
        while run.lines().count("publish") == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(pause)
        process.kill()
        process.wait(30)
    assert run.start().wait(60) == 0
    assert table(database) == undisturbed
    assert max(run.made().values()) == 1, "no batch was made again"


def test_sigterm_in_mid_cascade_redoes_nothing(
    undisturbed: list[Any], database_url: str, database: Database, tmp_path: Path
) -> None:
    run = Run(database_url, tmp_path / "stopped")
    for enough in (4, 9, 15):
        process = run.start()
        run.wait_for_lines(enough + len(run.lines()), process)
        process.terminate()
        assert process.wait(30) in (0, 3)
    assert run.start().wait(60) == 0
    assert table(database) == undisturbed
    assert max(run.made().values()) == 1, "no batch was made again"
