"""Memory limits: a task asked to stop in time resumes and knows why; one that outruns the watch dies alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chaos_handlers
import chaos_worker
import pytest
from chaos_harness import fake_cgroup

from core.messages import JobMessage
from core.outcome import Finished, RetryLater
from core.records import AttemptOutcome, TaskQuery
from core.stopping import StopToken

pytestmark = pytest.mark.chaos


def test_a_task_above_the_soft_mark_saves_resumes_and_knows_why(database_url: str, tmp_path: Path) -> None:
    memory = fake_cgroup(tmp_path / "cgroup", limit=200 << 20, used=190 << 20)
    machine, _ = chaos_worker.build(database_url, str(tmp_path), "worker", memory)
    job = machine.submit_job("chaos_eat_then_be_modest", {"parameters": {"bytes": 60 << 20}}).job
    machine.process_job_message(JobMessage(job_id=job.job_id, job_type=job.job_type))
    (task,) = machine.store.list_tasks(TaskQuery(job_id=job.job_id))

    outcomes = []
    while (message := chaos_worker.message_for(machine, job.job_id)) is not None:
        outcomes.append(machine.run_task(message, stop=StopToken()))
    outcomes = [outcome for outcome in outcomes if isinstance(outcome, Finished | RetryLater)]  # not: not due yet
    assert [type(outcome) for outcome in outcomes] == [RetryLater, Finished]
    ended = machine.store.get_task(task.task_id)
    assert ended is not None
    assert ended.result_data == {"success": True, "learned": "MEMORY", "resumed_at": 512}
    first, second = machine.store.list_attempts(task.task_id)
    assert (first.outcome, second.outcome) == (AttemptOutcome.FAILED, AttemptOutcome.COMPLETED)
    assert first.error_details is not None
    assert (first.error_details.type, first.error_details.code) == ("MemoryLimitApproached", "MEMORY")
    machine.close()


_IN_A_CGROUP = """
import json, os, pathlib, sys
sys.path[:0] = [{root!r}, {here!r}]
pathlib.Path({group!r}, "cgroup.procs").write_text(str(os.getpid()))
from chaos_harness import Harness
from core.stopping import StopToken
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ExecutorOptions, ProcessExecutor
from infrastructure.watchdogs import MemoryWatch
spec = ChildSpec(bootstrap="chaos_handlers:parts", arguments={{"root": {work!r}}})
watch = MemoryWatch(0.7)
print("limit", watch.limit)
executor = ProcessExecutor(spec, ExecutorOptions(), memory=watch)
harness = Harness(executor)
stop = StopToken()
print("asked", harness.run("eat", {{"bytes": {most} }}, stop=stop).result["interrupted"], stop.reason)
died = harness.run("devour").error
print("died", json.dumps([died.code, died.details["oom_kill"], died.details["peak_memory_bytes"], died.message]))
print("next", harness.run("good").result["success"])
executor.close()
"""

_LIMIT = 300 << 20


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A cgroup with a limit of its own, where this process may make one (as root)."""
    for parent, limit_file in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = parent / f"geoworker-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit_file).write_text(str(_LIMIT))
        except OSError:
            continue
        else:
            yield group
            return
        finally:
            if group.exists():
                group.rmdir()
    pytest.skip("no memory cgroup can be made here")


def test_the_kernels_own_limit_and_killer(memory_cgroup: Path, tmp_path: Path) -> None:
    """In a real cgroup: the limit is read, a listening task stops at the soft mark, a greedy one is killed alone."""
    here = Path(chaos_handlers.__file__).parent
    code = _IN_A_CGROUP.format(
        root=str(here.parents[1]), here=str(here), group=str(memory_cgroup), work=str(tmp_path), most=200 << 20
    )
    worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert worker.returncode == 0, worker.stderr
    said = dict(line.split(" ", 1) for line in worker.stdout.splitlines())
    assert int(said["limit"]) == _LIMIT
    assert said["asked"] == "True memory"
    code, oom_kill, peak, message = json.loads(said["died"])
    assert (code, oom_kill) == ("OUT_OF_MEMORY", True), message
    assert 100 << 20 < peak <= _LIMIT
    assert said["next"] == "True"
