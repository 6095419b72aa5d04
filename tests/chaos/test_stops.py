"""Stops, watchdogs and the life of children."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import chaos_handlers
import pytest
from chaos_harness import Harness, fake_cgroup, is_alive, make_claim, read_pid, wait_until
from chaos_store import FileCheckpointStore

from core.errors import ClaimLost, ConfigurationError
from core.ports import Raised, Returned, Stopped
from core.stopping import StopReason, StopToken
from infrastructure.process_executor.executor import ProcessExecutor
from infrastructure.process_executor.supervision import SupervisionRules
from infrastructure.watchdogs import DiskWatch

pytestmark = pytest.mark.chaos
Make = Callable[..., ProcessExecutor]


@pytest.mark.parametrize("reason", [StopReason.DRAIN, StopReason.CANCELLED, StopReason.MEMORY, StopReason.LEASE_LOST])
def test_a_handler_that_listens_learns_the_reason_at_once(harness: Harness, tmp_path: Path, reason: StopReason) -> None:
    stop = StopToken()
    started = tmp_path / "started"
    running = harness.start("listen", {"started": str(started)}, stop)
    read_pid(started)
    stop.request(reason)
    execution = running.result(5.0)
    assert isinstance(execution, Returned)
    assert execution.result["interrupted"] is True
    assert execution.result["reason"] == reason


def test_a_stop_asked_before_the_start_reaches_the_handler(harness: Harness, tmp_path: Path) -> None:
    stop = StopToken()
    stop.request(StopReason.DRAIN)
    execution = harness.run("listen", {"started": str(tmp_path / "started")}, stop=stop)
    assert isinstance(execution, Stopped | Returned)


def test_the_stop_of_one_task_does_not_reach_the_next(harness: Harness, tmp_path: Path) -> None:
    stop = StopToken()
    execution = harness.run("good", stop=stop)
    stop.request(StopReason.DRAIN)
    again = harness.run("good")
    assert isinstance(execution, Returned)
    assert isinstance(again, Returned)
    assert execution.result["pid"] == again.result["pid"]


def test_an_event_of_the_handlers_own_counts_as_a_drain(harness: Harness) -> None:
    stop = StopToken()
    assert isinstance(harness.run("listen_to_own_event", stop=stop), Returned)
    assert stop.reason is StopReason.DRAIN


def test_a_lost_lease_ends_a_deaf_handler_as_claim_lost(harness: Harness, tmp_path: Path) -> None:
    stop = StopToken()
    started = tmp_path / "started"
    running = harness.start("hang", {"started": str(started)}, stop)
    pid = read_pid(started)
    stop.request(StopReason.LEASE_LOST)
    with pytest.raises(ClaimLost):
        running.result(5.0)
    assert not is_alive(pid)


def test_a_fenced_write_of_a_stale_attempt_ends_as_claim_lost(make_executor: Make, tmp_path: Path) -> None:
    harness = Harness(make_executor(root=tmp_path))
    parameters = {"effects": str(tmp_path / "effects"), "count": 3}
    assert isinstance(harness.run("items", parameters, attempt=2), Returned)
    with pytest.raises(ClaimLost):
        harness.run("items", parameters, attempt=1)


@pytest.mark.parametrize("task_type", ["hold_the_gil", "spin"])
def test_the_worker_stays_responsive_while_a_handler_holds_the_gil(
    harness: Harness, tmp_path: Path, task_type: str
) -> None:
    started = tmp_path / "started"
    running = harness.start(task_type, {"started": str(started), "seconds": 1.0}, StopToken())
    read_pid(started)
    delays = []
    while running.is_alive():
        before = time.monotonic()
        time.sleep(0.005)
        delays.append(time.monotonic() - before)
    assert isinstance(running.result(), Returned)
    assert len(delays) > 20
    assert sorted(delays)[len(delays) // 2] < 0.05


def test_native_code_that_holds_the_gil_is_ended_at_its_deadline(harness: Harness, tmp_path: Path) -> None:
    started = tmp_path / "started"
    execution = harness.run("hold_the_gil", {"started": str(started), "seconds": 60}, timeout=0.3)
    assert isinstance(execution, Raised)
    assert execution.error.code == "TIMEOUT"
    assert not is_alive(read_pid(started))


def test_above_the_soft_mark_the_handler_is_asked_to_stop(make_executor: Make, tmp_path: Path) -> None:
    memory = fake_cgroup(tmp_path / "cgroup", limit=200 << 20, used=190 << 20)
    stop = StopToken()
    execution = Harness(make_executor(memory=memory)).run("eat", {"bytes": 60 << 20}, stop=stop)
    assert isinstance(execution, Returned)
    assert execution.result["interrupted"] is True
    assert stop.reason is StopReason.MEMORY


def test_a_deaf_handler_above_the_soft_mark_is_ended_and_the_retry_knows_why(
    make_executor: Make, tmp_path: Path
) -> None:
    memory = fake_cgroup(tmp_path / "cgroup", limit=200 << 20, used=190 << 20)
    execution = Harness(make_executor(memory=memory)).run("hang")
    assert isinstance(execution, Raised)
    assert (execution.error.type, execution.error.code) == ("MemoryLimitApproached", "MEMORY")
    assert execution.error.retryable


def test_a_child_too_small_to_help_is_left_alone(make_executor: Make, tmp_path: Path) -> None:
    memory = fake_cgroup(tmp_path / "cgroup", limit=8 << 30, used=int(7.9 * (1 << 30)))
    stop = StopToken()
    execution = Harness(make_executor(memory=memory)).run("hang", stop=stop, timeout=1.5)
    assert isinstance(execution, Raised)
    assert stop.reason is StopReason.TIMEOUT


def test_the_kernels_oom_kill_is_told_from_any_other_sigkill(make_executor: Make, tmp_path: Path) -> None:
    memory = fake_cgroup(tmp_path / "cgroup", limit=200 << 20, used=1 << 20)
    harness = Harness(make_executor(memory=memory))
    execution = harness.run("kill_itself", {"oom_counter": str(tmp_path / "cgroup" / "memory.events")})
    assert isinstance(execution, Raised)
    assert execution.error.code == "OUT_OF_MEMORY"
    assert execution.error.details["oom_kill"] is True
    assert execution.error.details["memory_limit_bytes"] == 200 << 20
    assert execution.error.details["peak_memory_bytes"] > 0
    execution = harness.run("kill_itself")
    assert isinstance(execution, Raised)
    assert execution.error.code == "KILLED_BY_SIGKILL"


def test_a_stall_is_reported_with_the_stacks_of_the_child(
    make_executor: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def reports() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.__dict__.get("action") == "task.stalled"]

    stop = StopToken()
    harness = Harness(make_executor(rules=SupervisionRules(grace=0.2, stall=0.4)))
    with caplog.at_level(logging.WARNING, logger="geoworker.executor"):
        running = harness.start("hang", {}, stop)
        wait_until(reports)
        assert harness.executor.status()["stalled"] == 1
        assert not stop.requested  # reported, not ended
        stop.request(StopReason.DRAIN)
        assert isinstance(running.result(), Stopped)
    assert harness.executor.status()["stops"]["drain"] == 1
    assert len(reports()) == 1
    assert "in hang" in reports()[0].getMessage()
    assert reports()[0].__dict__["task_id"] == "task-1"


def test_a_stall_can_end_the_task(make_executor: Make) -> None:
    harness = Harness(make_executor(rules=SupervisionRules(grace=0.2, stall=0.3, stall_kills=True)))
    execution = harness.run("hang")
    assert isinstance(execution, Raised)
    assert (execution.error.type, execution.error.code) == ("TaskStalled", "STALLED")


def test_progress_is_no_stall(make_executor: Make, tmp_path: Path) -> None:
    harness = Harness(make_executor(rules=SupervisionRules(grace=0.2, stall=1.5, stall_kills=True)))
    parameters = {"effects": str(tmp_path / "effects"), "count": 30, "seconds": 0.1}
    assert isinstance(harness.run("items", parameters), Returned)


def test_no_task_is_started_on_a_full_disk(make_executor: Make, tmp_path: Path) -> None:
    harness = Harness(make_executor(disk=DiskWatch(tmp_path / "not" / "yet", 1 << 60)))
    execution = harness.run("good")
    assert isinstance(execution, Raised)
    assert (execution.error.code, execution.error.retryable) == ("DISK_FULL", True)
    assert execution.retry_after is not None


def test_progress_is_live(make_executor: Make, tmp_path: Path) -> None:
    harness = Harness(make_executor(root=tmp_path))
    stop = StopToken()
    started = tmp_path / "started"
    running = harness.start("report_then_wait", {"started": str(started)}, stop)
    read_pid(started)
    progress = FileCheckpointStore(tmp_path / "checkpoints").progress_of("task-1")
    assert progress is not None
    assert (progress["percent"], progress["message"]) == (42.0, "nearly half")
    stop.request(StopReason.DRAIN)
    running.result()


def test_logs_are_live_carry_the_tasks_ids_and_no_secrets(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopToken()
    logged = tmp_path / "logged"
    with caplog.at_level(logging.INFO):
        running = harness.start("log_lines", {"logged": str(logged)}, stop)
        wait_until(logged.exists)
        wait_until(lambda: any("caught" in record.getMessage() for record in caplog.records))
        stop.request(StopReason.DRAIN)
        running.result()
    hello = next(record for record in caplog.records if record.getMessage() == "hello from log_lines")
    assert (hello.task_id, hello.job_id, hello.attempt, hello.tile) == ("task-1", "job-1", 1, 3)  # type: ignore[attr-defined]
    assert hello.funcName == "log_lines"
    assert "hunter2" not in caplog.text
    caught = next(record for record in caplog.records if record.getMessage() == "caught")
    assert caught.exc_text is not None
    assert "ValueError: inner" in caught.exc_text


def test_children_are_reused_then_recycled(make_executor: Make) -> None:
    executor = make_executor(recycle_tasks=3, spare_children=0)
    harness = Harness(executor)
    pids = [harness.run("good").result["pid"] for _ in range(7)]  # type: ignore[union-attr]
    assert [len(set(pids[:3])), len(set(pids[3:6])), len(set(pids))] == [1, 1, 3]
    assert executor.status()["retired"] == 2


def test_a_child_above_the_memory_mark_is_replaced(make_executor: Make) -> None:
    executor = make_executor(recycle_bytes=1)
    harness = Harness(executor)
    first, second = (harness.run("good").result["pid"] for _ in range(2))  # type: ignore[union-attr]
    assert first != second


def test_a_retired_child_closes_what_it_holds(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor(root=tmp_path, recycle_tasks=1, spare_children=0)
    pid = Harness(executor).run("good").result["pid"]  # type: ignore[union-attr]
    wait_until((tmp_path / f"closed-{pid}").exists)
    wait_until(lambda: not is_alive(pid))


def test_a_crash_costs_no_start_because_a_spare_waits(make_executor: Make) -> None:
    executor = make_executor()
    harness = Harness(executor)
    harness.run("good")
    wait_until(lambda: any(child.look_ready() and child.tasks == 0 for child in executor._idle))
    started = executor.status()["started"]
    harness.run("abort")
    assert isinstance(harness.run("good"), Returned)
    assert executor.status()["started"] <= started + 1  # the next spare, not the child that ran


def test_an_idle_child_that_was_killed_is_replaced_before_the_next_task(make_executor: Make) -> None:
    executor = make_executor(spare_children=0)
    harness = Harness(executor)
    pid = harness.run("good").result["pid"]  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    execution = harness.run("good")
    assert isinstance(execution, Returned)
    assert execution.result["pid"] != pid


def test_a_task_whose_child_died_before_it_began_is_run_on_another(make_executor: Make) -> None:
    """The worker has handed the task over, and the child, frozen, has not read it when it is killed."""
    executor = make_executor(spare_children=0)
    harness = Harness(executor)
    pid = harness.run("good").result["pid"]  # type: ignore[union-attr]
    os.kill(pid, signal.SIGSTOP)
    running = harness.start("good", {}, StopToken())
    wait_until(lambda: [child["tasks"] for child in executor.status()["children"]] == [2])
    os.kill(pid, signal.SIGKILL)
    execution = running.result()
    assert isinstance(execution, Returned)
    assert execution.result["pid"] != pid


def test_a_task_is_not_given_up_when_all_idle_children_have_died(make_executor: Make) -> None:
    executor = make_executor(spare_children=5)
    harness = Harness(executor)
    assert isinstance(harness.run("good"), Returned)
    idle = wait_until(lambda: [child for child in executor._idle if child.look_ready()][5:] and list(executor._idle))
    for child in idle:
        os.kill(child.runner_pid, signal.SIGKILL)
    assert isinstance(harness.run("good"), Returned)
    assert executor.status()["died"] >= 5


def test_tasks_run_side_by_side_one_child_each(harness: Harness, tmp_path: Path) -> None:
    stop = StopToken()
    places = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    running = [harness.start("listen", {"started": str(place)}, stop) for place in places]
    pids = {read_pid(place) for place in places}
    assert len(pids) == 3
    stop.request(StopReason.DRAIN)
    assert all(isinstance(task.result(), Returned) for task in running)


def test_a_bootstrap_with_a_fault_refuses_to_start_and_says_why(make_executor: Make) -> None:
    executor = make_executor(arguments={"broken": True})
    with pytest.raises(ConfigurationError, match="a fault of its own"):
        executor.start()
    execution = Harness(executor).run("good")
    assert isinstance(execution, Raised)
    assert "a fault of its own" in execution.error.message


def test_closing_ends_running_tasks_and_all_children(make_executor: Make, tmp_path: Path) -> None:
    executor = make_executor()
    started = tmp_path / "started"
    running = Harness(executor).start("hang", {"started": str(started)}, StopToken())
    pid = read_pid(started)
    children = [child["pid"] for child in executor.status()["children"]]
    executor.close()
    assert isinstance(running.result(5.0), Stopped)
    wait_until(lambda: not any(is_alive(child) for child in [pid, *children] if child is not None))
    executor.close()


def test_closing_waits_for_children_whose_end_has_hardly_begun(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make_executor()
    started = tmp_path / "started"
    running = Harness(executor).start("hang", {"started": str(started)}, StopToken())
    pid = read_pid(started)
    children = [child["pid"] for child in executor.status()["children"]]
    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        if thread.name == "geoworker-child-end" and threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    executor.close()
    assert not any(is_alive(child) for child in [pid, *children] if child is not None)
    assert isinstance(running.result(5.0), Stopped)


_WORKER = """
import sys, threading
sys.path[:0] = [{root!r}, {here!r}]
from chaos_harness import make_claim
from core.stopping import StopToken
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ProcessExecutor
executor = ProcessExecutor(ChildSpec(bootstrap="chaos_handlers:parts", arguments={{"root": {work!r}}}))
executor.start()
executor.execute(make_claim({task!r}, {parameters!r}), stop=StopToken(), deadline=None)
"""


@pytest.mark.parametrize(
    ("task", "parameters"),
    [("leave_a_pool", {"then": "hang"}), ("hold_the_gil", {"seconds": 3600})],
)
def test_everything_ends_when_the_worker_is_killed(tmp_path: Path, task: str, parameters: dict[str, object]) -> None:
    pids, here = tmp_path / "pids", Path(chaos_handlers.__file__).parent
    code = _WORKER.format(
        root=str(here.parents[1]),
        here=str(here),
        work=str(tmp_path),
        task=task,
        parameters={**parameters, "pids": str(pids), "started": str(pids)},
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: pids.exists() and pids.read_text(), 20)
    wait_until(lambda: len(_descendants(worker.pid)) >= 4, 20)  # guardian and runner of the task and of the spare
    descendants = _descendants(worker.pid)
    assert set(map(int, pids.read_text().split())) <= descendants
    worker.send_signal(signal.SIGKILL)
    worker.wait(5)
    wait_until(lambda: not any(map(is_alive, descendants)))


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children = [int(child) for child in (thread / "children").read_text().split()]
        found.update(children, *(_descendants(child) for child in children))
    return found


def test_signals_to_the_whole_group_are_the_workers_business(harness: Harness, tmp_path: Path) -> None:
    stop = StopToken()
    started = tmp_path / "started"
    running = harness.start("listen", {"started": str(started)}, stop)
    pid = read_pid(started)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    threading.Event().wait(0.2)
    assert running.is_alive()
    stop.request(StopReason.DRAIN)
    assert isinstance(running.result(), Returned)


def test_claims_of_no_known_type_are_refused(harness: Harness) -> None:
    execution = harness.executor.execute(make_claim("no_such_type"), stop=StopToken(), deadline=None)
    assert isinstance(execution, Raised)
    assert "no_such_type" in execution.error.message
