"""What a child process costs a task: a no-op on the process executor beside the same on the inline executor.

Times on a busy machine are mostly waiting for a core; the processor time of worker and child together is not.

``python -m tests.benchmarks.executor_overhead [tasks]``
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from core.docker_context import DockerTaskContext
from core.handlers import HandlerRegistry, HandlerSpec
from core.ports import Returned, TaskExecutor
from core.records import Claim, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopToken
from infrastructure.inline_executor import HandlerParts, InlineExecutor
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ExecutorOptions, ProcessExecutor
from testing.mock_state_manager import MockStateManager

_ROUNDS = 5


def noop(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    return {"success": True}


def crash(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    import os

    os.abort()


@contextmanager
def parts(arguments: Mapping[str, Any]) -> Iterator[HandlerParts]:
    specs = [HandlerSpec(task_type=handler.__name__, handler=handler) for handler in (noop, crash)]
    yield HandlerParts(
        handlers=HandlerRegistry(specs),
        checkpoints=MockStateManager(),
        work_root=Path(arguments["root"]),
        services={},
    )


def claim(task_type: str) -> Claim:
    task = TaskRecord(
        task_id="task-1",
        job_id="job-1",
        job_type="benchmark",
        task_type=task_type,
        stage=1,
        task_index=0,
        runs_on=RunsOn.DOCKER,
        status=TaskStatus.PROCESSING,
        parameters={"source_url": "https://example.org/a.tif", "target_crs": "EPSG:3857"},
    )
    return Claim(task=task, attempt=1, worker_id="benchmark", lease=timedelta(seconds=60))


def measure(executor: TaskExecutor, tasks: int) -> list[float]:
    """Milliseconds of each task."""
    work = claim("noop")
    times = []
    for _ in range(tasks):
        began = time.perf_counter()
        execution = executor.execute(work, stop=StopToken(), deadline=None)
        times.append((time.perf_counter() - began) * 1000)
        assert isinstance(execution, Returned)
    return times


def cpu_seconds(executor: ProcessExecutor) -> float:
    """Processor time so far of this process and of the children that are there (Linux)."""
    pids = [child["pid"] for child in executor.status()["children"]]
    children = sum(_scheduled_ns(pid) for pid in pids if pid is not None)
    return time.process_time() + children / 1e9


def _scheduled_ns(pid: int) -> int:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def report(name: str, rounds: list[list[float]]) -> float:
    middle = statistics.median(statistics.median(times) for times in rounds)
    mean = statistics.median(statistics.fmean(times) for times in rounds)
    worst = statistics.median(sorted(times)[int(len(times) * 0.99)] for times in rounds)
    print(f"{name:<8} median {middle:7.3f} ms   mean {mean:7.3f} ms   p99 {worst:7.3f} ms   {1000 / mean:8.0f} tasks/s")
    return middle


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as root, parts({"root": root}) as inline_parts:
        inline = InlineExecutor(inline_parts)
        began = time.perf_counter()
        process = ProcessExecutor(
            ChildSpec(bootstrap=f"{__spec__.name}:parts", arguments={"root": root}),
            ExecutorOptions(recycle_tasks=10**9),
        )
        process.start()
        print(f"first child ready in {(time.perf_counter() - began) * 1000:.0f} ms")
        measure(process, 50)
        time.sleep(2.0)  # the spare starts up
        rounds, spent = [], []
        for _ in range(_ROUNDS):
            inline_times = measure(inline, tasks)
            before = cpu_seconds(process)
            rounds.append((inline_times, measure(process, tasks)))
            spent.append((cpu_seconds(process) - before) / tasks * 1000)
        base = report("inline", [inline_times for inline_times, _ in rounds])
        child = report("process", [process_times for _, process_times in rounds])
        print(f"overhead of the warm child: {child - base:.3f} ms a task (median)")
        print(f"processor time of worker and child: {statistics.median(spent):.3f} ms a task")
        after = []
        for _ in range(5):
            process.execute(claim("crash"), stop=StopToken(), deadline=None)
            after += measure(process, 1)
            time.sleep(2.0)
        print(f"first task after a crash, spare waiting: {statistics.median(after):.1f} ms")
        process.close()


if __name__ == "__main__":
    main()
