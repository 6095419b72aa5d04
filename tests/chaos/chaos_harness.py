"""What chaos tests share: claims, an executor under test, and waiting for what must happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core.ports import Execution
from core.records import Claim, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopToken
from infrastructure.process_executor.executor import ProcessExecutor


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


def is_alive(pid: int) -> bool:
    """Whether a process still runs (a zombie that nobody waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    give_up_at = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.01)
    return found


def read_pid(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text()))


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
