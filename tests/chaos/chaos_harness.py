"""What chaos tests share: claims, an executor under test, and waiting for what must happen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core.ports import Execution
from core.records import Claim, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopToken
from infrastructure.process_executor.executor import ProcessExecutor
from infrastructure.watchdogs import MemoryWatch
from tests.process_support import is_alive, read_pid, wait_until

__all__ = ["Harness", "is_alive", "make_claim", "read_pid", "wait_until"]


def make_claim(
    task_type: str, parameters: Mapping[str, Any] | None = None, *, task_id: str = "task-1", attempt: int = 1
) -> Claim:
    task = TaskRecord(
        task_id=task_id,
        job_id="job-1",
        job_type="chaos",
        task_type=task_type,
        stage=1,
        task_index=0,
        runs_on=RunsOn.DOCKER,
        status=TaskStatus.PROCESSING,
        parameters=parameters or {},
        attempt=attempt,
    )
    return Claim(task=task, attempt=attempt, worker_id="chaos-worker", lease=timedelta(seconds=60))


def fake_cgroup(root: Path, *, limit: int, used: int, oom_kills: int = 0) -> MemoryWatch:
    """A cgroup v2 as the kernel shows it in a container."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text("0::/\n")
    (root / "memory.max").write_text(f"{limit}\n")
    (root / "memory.current").write_text(f"{used}\n")
    (root / "memory.stat").write_text("anon 1\ninactive_file 0\n")
    (root / "memory.events").write_text(f"oom {oom_kills}\noom_kill {oom_kills}\n")
    return MemoryWatch(0.85, proc=root / "proc", cgroups=root)


class Harness:
    """An executor under test, and ways to run one task on it."""

    def __init__(self, executor: ProcessExecutor) -> None:
        self.executor = executor

    def run(
        self,
        task_type: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        stop: StopToken | None = None,
        timeout: float | None = None,
        attempt: int = 1,
    ) -> Execution:
        deadline = None if timeout is None else datetime.now(UTC) + timedelta(seconds=timeout)
        claim = make_claim(task_type, parameters, attempt=attempt)
        return self.executor.execute(claim, stop=stop or StopToken(), deadline=deadline)

    def start(self, task_type: str, parameters: Mapping[str, Any], stop: StopToken, **more: Any) -> Running:
        return Running(lambda: self.run(task_type, parameters, stop=stop, **more))


class Running(threading.Thread):
    """A task that runs in a thread of its own."""

    def __init__(self, call: Callable[[], Execution]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Execution | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._result = error

    def result(self, seconds: float = 20.0) -> Execution:
        self.join(seconds)
        assert not self.is_alive(), "the task did not end in time"
        if isinstance(self._result, BaseException):
            raise self._result
        assert self._result is not None
        return self._result
