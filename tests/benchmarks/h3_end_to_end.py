"""A grid from its parameters to its published table, against a bare sorted binary COPY of the same rows.

``python -m tests.benchmarks.h3_end_to_end [area [finest resolution [rounds]]]``, on an embedded PostgreSQL. The two are
measured in turns in one run. The bare COPY is given ready arrays, in one transaction, into a table with the same
columns, with and without a primary key; the job generates, saves in batches, checks, indexes and publishes. Memory is
measured in a process of its own.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.copy_binary import copy_rows
from infrastructure.postgres.database import Database
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.h3_store import PostgresGridStore
from infrastructure.postgres.migrations import migrate
from services.h3 import bits
from tests.h3_support import Task


def job(store: PostgresGridStore, area: str, finest: int, directory: Path) -> tuple[int, float]:
    """Run the bootstrap handler; cells and seconds."""
    store.delete("bench")
    parameters = {
        "area": area,
        "grid_id": "bench",
        "target_resolutions": list(range(3, finest + 1)),
        "picture": False,
        "max_cells": 10**9,
    }
    start = time.perf_counter()
    result = Task("h3_bootstrap_complete", parameters, directory, store).result()
    return result["cells"], time.perf_counter() - start


def floor(url: str, rows: list[dict[str, object]], *, key: bool) -> float:
    """Seconds of one sorted binary COPY in one transaction."""
    described = [("h3", ">i8"), ("parent", ">i8"), ("grid_key", ">i4"), ("resolution", ">i2")]
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute(
            "CREATE TABLE bare"
            " (h3 bigint NOT NULL, parent bigint, grid_key integer NOT NULL, resolution smallint NOT NULL)"
        )
        if key:
            connection.execute("ALTER TABLE bare ADD PRIMARY KEY (h3)")
        connection.commit()
        start = time.perf_counter()
        copy_rows(connection, sql.Identifier("bare"), described, rows)  # type: ignore[arg-type]
        connection.commit()
        return time.perf_counter() - start


def stored_rows(store: PostgresGridStore) -> list[dict[str, object]]:
    """The rows of the grid as they are, sorted, in chunks."""
    grid = store.get("bench")
    assert grid is not None
    return [
        {"h3": cells, "parent": bits.parents(cells, step - 1), "grid_key": grid.key, "resolution": step}
        for step in grid.spec.resolutions
        for chunk in store.cells(grid, step)
        for cells in np.array_split(chunk, max(1, len(chunk) // 100_000))
    ]


def peak_memory(url: str, area: str, finest: int) -> float:
    """Peak resident memory of a process that does nothing else, megabytes."""
    arguments = [sys.executable, "-m", "tests.benchmarks.h3_end_to_end", "--memory", url, area, str(finest)]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def main(area: str = "RWA", finest: int = 10, rounds: int = 5) -> None:
    """Print the comparison."""
    with tempfile.TemporaryDirectory(prefix="geoworker-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with EmbeddedPostgres(directory / "postgres") as server:
            url = server.start()
            pool = ConnectionPoolManager(url, PoolSettings(min_size=1, max_size=2))
            migrate(Database(pool))
            store = PostgresGridStore(Database(pool))
            cells, _ = job(store, area, finest, directory)
            rows = stored_rows(store)
            jobs, keyed, bare = [], [], []
            for _ in range(rounds):
                keyed.append(floor(url, rows, key=True))
                jobs.append(job(store, area, finest, directory)[1])
                bare.append(floor(url, rows, key=False))
            del rows
            memory = peak_memory(url, area, finest)
            pool.close()
    print(f"{area}, resolutions 2 to {finest}: {cells:,} cells")
    for what, taken in (("the whole job", jobs), ("COPY with its key", keyed), ("COPY without a key", bare)):
        print(
            f"  {what:<20}{statistics.median(taken):>8.2f} s{cells / statistics.median(taken) / 1e6:>8.2f} M rows/s"
            f"   ({min(taken):.2f} to {max(taken):.2f} s)"
        )
    print(f"  the job's rate is {statistics.median(keyed) / statistics.median(jobs):.0%} of the COPY with its key")
    print(f"  peak memory of the job's process: {memory:.0f} MB")


def _memory(url: str, area: str, finest: int) -> None:
    pool = ConnectionPoolManager(url, PoolSettings(min_size=1, max_size=2))
    with tempfile.TemporaryDirectory() as directory:
        job(PostgresGridStore(Database(pool)), area, finest, Path(directory))
    pool.close()
    # Not ru_maxrss: that starts from the peak of the process that started this one.
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000)  # type: ignore[index]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _memory(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
