"""Each bad handler becomes a recorded failure with its true cause, and the worker goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_harness import Harness, is_alive, read_pid, wait_until

from core.ports import Raised, Returned
from core.stopping import StopReason, StopToken
from infrastructure.process_executor.executor import ProcessExecutor

pytestmark = pytest.mark.chaos
Make = Callable[..., ProcessExecutor]


def failure(execution: object) -> Raised:
    assert isinstance(execution, Raised), execution
    return execution


@pytest.mark.parametrize(
    ("task_type", "signal_name"),
    [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("kill_itself", "SIGKILL"), ("kill_its_group", "SIGKILL")],
)
def test_death_by_signal_is_recorded_with_the_signal(harness: Harness, task_type: str, signal_name: str) -> None:
    error = failure(harness.run(task_type)).error
    assert error.type == "HandlerProcessDied"
    assert error.code == f"KILLED_BY_{signal_name}"
    assert error.retryable
    assert error.details["signal"] == signal_name
    assert error.details["oom_kill"] is False
    assert error.details["peak_memory_bytes"] > 5 << 20


def test_the_last_lines_before_a_crash_name_the_python_line(harness: Harness) -> None:
    lines = failure(harness.run("segfault")).error.details["last_log_lines"]
    assert lines[0] == "about to read address zero"
    assert any("in segfault" in line for line in lines)


def test_exit_without_a_result_is_recorded_with_the_exit_code(harness: Harness) -> None:
    error = failure(harness.run("exit_at_once", {"code": 7})).error
    assert (error.code, error.details["exit_code"]) == ("PROCESS_EXITED", 7)
    assert error.details["last_log_lines"] == ["leaving"]


def test_even_exit_code_zero_is_no_success(harness: Harness) -> None:
    assert failure(harness.run("exit_at_once", {"code": 0})).error.details["exit_code"] == 0


def test_memory_error_under_an_address_space_limit(harness: Harness) -> None:
    error = failure(harness.run("allocate", {"limit": 2 << 30})).error
    assert (error.type, error.retryable) == ("MemoryError", True)


def test_printed_megabytes_neither_block_nor_grow(harness: Harness) -> None:
    assert isinstance(harness.run("print_megabytes", {"megabytes": 20}), Returned)
    error = failure(harness.run("print_megabytes", {"megabytes": 5, "die": True})).error
    assert error.details["last_log_lines"][-1] == "the last line"
    assert sum(map(len, error.details["last_log_lines"])) <= 50 * 2_000


@pytest.mark.parametrize("what", ["object", "nan", "lambda", "nothing", "no success", "cycle", "huge", "bytes"])
def test_results_that_json_cannot_hold_are_refused(harness: Harness, what: str) -> None:
    error = failure(harness.run("return_what_it_must_not", {"what": what})).error
    assert (error.type, error.retryable) == ("ContractViolation", False)
    assert "return_what_it_must_not" in error.message


@pytest.mark.parametrize(
    ("what", "error_type", "retryable"),
    [
        ("unpicklable", "Unpicklable", True),
        ("unreadable", "Unreadable", True),
        ("system exit", "SystemExit", True),
        ("keyboard interrupt", "KeyboardInterrupt", True),
        ("base exception", "BaseException", True),
        ("generator exit", "GeneratorExit", True),
        ("memory error", "MemoryError", True),
        ("recursion", "RecursionError", True),
    ],
)
def test_whatever_is_raised_is_recorded(harness: Harness, what: str, error_type: str, retryable: bool) -> None:
    error = failure(harness.run("raise_what_it_must_not", {"what": what})).error
    assert (error.type, error.retryable) == (error_type, retryable)
    assert error.traceback is not None
    assert "raise_what_it_must_not" in error.traceback


def test_secrets_are_not_recorded(harness: Harness) -> None:
    error = failure(harness.run("raise_what_it_must_not", {"what": "secret"})).error
    assert "topsecret" not in str(error)
    assert "sig=***" in error.message


def test_details_of_a_permanent_error_survive_in_json_form(harness: Harness) -> None:
    error = failure(harness.run("raise_what_it_must_not", {"what": "permanent"})).error
    assert (error.code, error.retryable, error.details["n"]) == ("NOT_A_RASTER", False, "nan")


def test_a_deleted_working_directory(harness: Harness) -> None:
    before = os.getcwd()
    assert isinstance(harness.run("delete_its_directory"), Returned)
    assert os.getcwd() == before


@pytest.mark.parametrize("task_type", ["close_descriptors", "reuse_descriptors"])
def test_closed_descriptors_end_the_child_and_write_into_no_other_file(
    harness: Harness, shared_executor: object, task_type: str
) -> None:
    error = failure(harness.run(task_type)).error
    assert error.type == "HandlerProcessDied"
    assert error.details["exit_code"] == 71
    assert "channel" in error.message


def test_victims_of_reused_descriptors_stay_empty(make_executor, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    executor = make_executor(root=tmp_path)
    failure(Harness(executor).run("reuse_descriptors"))
    victims = list(tmp_path.glob("work/*/victim-*"))
    assert len(victims) == 64
    # What is printed goes to descriptor 2, whatever that is now; frames go nowhere.
    assert sum(victim.stat().st_size > 0 for victim in victims) <= 1
    assert not any(b'"type"' in victim.read_bytes() for victim in victims)


def test_changed_signal_handlers_are_put_back(harness: Harness) -> None:
    assert isinstance(harness.run("change_signals"), Returned)
    result = harness.run("signal_itself")
    assert isinstance(result, Returned)
    assert result.result["child"] == -15  # a program that the handler starts can be terminated as usual


def test_a_changed_environment_does_not_reach_the_next_task(harness: Harness) -> None:
    first = harness.run("change_environment")
    second = harness.run("show_environment")
    assert isinstance(first, Returned)
    assert isinstance(second, Returned)
    assert second.result["chaos"] is None


def test_threads_left_behind_end_with_their_process(harness: Harness) -> None:
    execution = harness.run("leave_threads")
    assert isinstance(execution, Returned)
    wait_until(lambda: not is_alive(execution.result["pid"]))


def test_a_pool_within_a_handler_works_and_may_log(harness: Harness) -> None:
    execution = harness.run("use_a_pool")
    assert isinstance(execution, Returned)
    assert execution.result["squares"] == [number * number for number in range(10)]


def test_handlers_may_use_threads_processes_and_gdals_own_threads(harness: Harness) -> None:
    methods = ["fork", "spawn", "forkserver"]
    execution = harness.run("use_every_kind_of_parallelism", {"methods": methods}, timeout=60)
    assert isinstance(execution, Returned), execution
    result = execution.result
    assert (result["threads"], result["items"], result["gdal"]) == (sum(range(40)), 40, 1.0)
    assert len({result[method] for method in methods}) == 1
    assert result["gdal_in_forks"] == [1.0, 1.0]


def test_threads_and_forks_that_a_handler_has_ended_cost_no_new_child(make_executor: Make) -> None:
    harness = Harness(make_executor(preload=("rasterio",)))  # as the worker does: its import sets variables
    pids = set()
    for _ in range(2):
        execution = harness.run("use_every_kind_of_parallelism", {"methods": ["fork"]}, timeout=60)
        assert isinstance(execution, Returned), execution
        pids.add(execution.result["pid"])
    assert len(pids) == 1


def test_a_retry_after_a_timeout_never_runs_beside_the_attempt_before(harness: Harness, tmp_path: Path) -> None:
    """When the failure comes back, to be recorded and tried again, nothing of the old attempt is alive any more."""
    pids, started = tmp_path / "pids", tmp_path / "started"
    error = failure(harness.run("leave_a_pool", {"pids": str(pids), "then": "hang"}, timeout=2.0)).error
    assert error.code == "TIMEOUT"
    assert not any(is_alive(int(pid)) for pid in pids.read_text().split())
    assert failure(harness.run("hang", {"started": str(started)}, timeout=0.3)).error.code == "TIMEOUT"
    assert not is_alive(read_pid(started))


def test_the_peak_memory_of_a_failure_is_its_own_and_not_of_the_task_before(make_executor: Make) -> None:
    harness = Harness(make_executor())
    mib = 1 << 20
    small = failure(harness.run("exit_at_once")).error.details["peak_memory_bytes"]
    assert isinstance(harness.run("eat_and_return", {"bytes": 300 * mib}), Returned)
    after = failure(harness.run("exit_at_once")).error.details["peak_memory_bytes"]
    assert after < small + 100 * mib


def test_no_fork_outlives_its_termination(harness: Harness) -> None:
    execution = harness.run("terminate_forks", {"forks": 200}, timeout=20.0)
    assert isinstance(execution, Returned)
    assert execution.result["statuses"] == [-15] * 200


@pytest.mark.parametrize("then", ["return", "exit", "hang"])
def test_a_pool_left_behind_is_ended(harness: Harness, tmp_path: Path, then: str) -> None:
    pids = tmp_path / "pids"
    execution = harness.run("leave_a_pool", {"pids": str(pids), "then": then}, timeout=2.0)
    match then:
        case "return":
            assert isinstance(execution, Returned)
        case "exit":
            assert failure(execution).error.details["exit_code"] == 3
        case "hang":
            assert failure(execution).error.code == "TIMEOUT"
    left = [int(pid) for pid in pids.read_text().split()]
    assert len(left) == 2
    wait_until(lambda: not any(map(is_alive, left)))


def test_a_daemon_in_a_session_of_its_own_is_ended(harness: Harness, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert isinstance(harness.run("leave_a_daemon", {"pids": str(pids)}), Returned)
    wait_until(lambda: not is_alive(int(pids.read_text())))


def test_a_hang_past_the_deadline_is_ended(harness: Harness, tmp_path: Path) -> None:
    started = tmp_path / "started"
    error = failure(harness.run("hang", {"started": str(started)}, timeout=0.3)).error
    assert (error.type, error.code, error.retryable) == ("TaskTimeout", "TIMEOUT", True)
    assert error.details["last_log_lines"] == ["hanging"]
    assert not is_alive(read_pid(started))


def test_a_stop_that_nobody_hears_ends_the_handler_after_the_grace(harness: Harness, tmp_path: Path) -> None:
    stop = StopToken()
    started = tmp_path / "started"
    running = harness.start("hang", {"started": str(started)}, stop)
    pid = read_pid(started)
    stop.request(StopReason.DRAIN)
    assert "did not return within 0.5 s" in running.result(5.0).detail  # type: ignore[union-attr]
    assert not is_alive(pid)
