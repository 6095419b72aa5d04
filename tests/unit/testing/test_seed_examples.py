"""The test kit as its users know it: imports, calls and shapes."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime

import pytest

from core.errors import Conflict, JobNotFound, UnknownTaskType
from testing import MockServiceBusRepository, MockStateManager, create_test_core_machine, setup_single_task_test


def test_the_state_manager_is_filled_and_looked_into() -> None:
    state_mgr = MockStateManager()
    state_mgr.create_test_job("job-1", "process_raster", {"file": "test.tif"})
    state_mgr.create_test_task("task-1", "job-1", "validate_raster", stage=1, parameters={})
    snapshot = state_mgr.get_state_snapshot()
    assert set(snapshot) == {"jobs", "tasks", "stage_stats"}
    assert snapshot["jobs"]["job-1"]["status"] == "PROCESSING"
    assert snapshot["jobs"]["job-1"]["current_stage"] == 1
    assert snapshot["jobs"]["job-1"]["parameters"] == {"file": "test.tif"}
    assert snapshot["tasks"]["task-1"]["status"] == "QUEUED"
    assert snapshot["tasks"]["task-1"]["stage"] == 1
    assert snapshot["stage_stats"] == {"job-1": {"1": {"total": 1, "completed": 0, "failed": 0}}}
    log = state_mgr.get_operation_log()
    assert [(entry["operation"], entry.get("task_id") or entry["job_id"]) for entry in log] == [
        ("create_job", "job-1"),
        ("create_task", "task-1"),
    ]
    assert all(datetime.fromisoformat(entry["timestamp"]) for entry in log)


def test_a_job_or_task_is_created_once_and_a_task_needs_its_job() -> None:
    state_mgr = MockStateManager()
    with pytest.raises(JobNotFound):
        state_mgr.create_test_task("task-1", "job-1", "work")
    state_mgr.create_test_job("job-1", "demo", {})
    with pytest.raises(Conflict):
        state_mgr.create_test_job("job-1", "demo", {})
    state_mgr.create_test_task("task-1", "job-1", "work")
    with pytest.raises(Conflict):
        state_mgr.create_test_task("task-1", "job-1", "work")
    state_mgr.cancel_job("job-1", reason="r")
    with pytest.raises(Conflict):
        state_mgr.create_test_task("task-2", "job-1", "work")


def test_a_single_task_runs_its_real_handler() -> None:
    machine, state_mgr, sb_repo, msg = setup_single_task_test(
        task_type="hello_world_greeting", parameters={"message": "Hello!"}, job_type="hello_world"
    )
    result = machine.process_task_message(msg)
    assert result["success"] is True
    assert result["greeting"] == "Hello! (0)"
    snapshot = state_mgr.get_state_snapshot()
    assert snapshot["jobs"][msg.parent_job_id]["status"] == "PROCESSING"
    assert snapshot["tasks"][msg.task_id]["status"] == "COMPLETED"
    assert snapshot["stage_stats"][msg.parent_job_id] == {"1": {"total": 1, "completed": 1, "failed": 0}}
    (line,) = sb_repo.get_message_summary()
    assert line["queue_name"] == "geospatial-jobs"
    assert line["message_type"] == "stage_complete"
    assert line["timestamp"].endswith("Z")
    (signal,) = sb_repo.get_stage_complete_signals()
    assert (signal["job_id"], signal["completed_stage"]) == (msg.parent_job_id, 1)
    (sent,) = sb_repo.get_sent_messages()
    assert set(sent) == {"queue", "message", "timestamp"}
    assert sent["queue"] == "geospatial-jobs"
    assert sb_repo.get_messages_for_queue("geospatial-jobs") == [sent]
    assert sb_repo.get_messages_for_queue("long-running-tasks") == []
    assert machine.process_task_message(msg)["success"] is False  # it is done
    assert len(sb_repo.get_sent_messages()) == 1


def test_full_control() -> None:
    machine, state_mgr, _, msg = (*create_test_core_machine(), None)
    state_mgr.create_test_job("job-1", "hello_world", {})
    task = state_mgr.create_test_task("task-1", "job-1", "hello_world_greeting", stage=1, parameters={"index": 7})
    from core.messages import TaskMessage

    msg = TaskMessage(
        task_id=task.task_id, parent_job_id="job-1", job_type="hello_world", task_type=task.task_type, stage=1
    )
    assert machine.process_task_message(msg)["index"] == 7


def test_bad_parameters_fail_the_task_as_in_production() -> None:
    machine, state_mgr, _, msg = setup_single_task_test("hello_world_greeting", {"nonsense": 1})
    result = machine.process_task_message(msg)
    assert result["success"] is False
    assert "nonsense" in result["error"]
    assert state_mgr.get_state_snapshot()["tasks"][msg.task_id]["status"] == "FAILED"
    assert state_mgr.get_state_snapshot()["jobs"][msg.parent_job_id]["status"] == "FAILED"


def test_an_unknown_task_type_is_refused_with_what_is_known() -> None:
    with pytest.raises(UnknownTaskType, match="hello_world_greeting"):
        setup_single_task_test("nope", {})


def test_the_repository_stands_alone() -> None:
    sb_repo = MockServiceBusRepository()
    assert sb_repo.get_sent_messages() == []
    assert sb_repo.get_stage_complete_signals() == []
    assert sb_repo.relay() == 0


def test_importing_the_kit_loads_nothing_heavy() -> None:
    program = """
import sys
import testing
from testing import MockStateManager, MockServiceBusRepository, create_test_core_machine
from testing import run_job, setup_single_task_test
machine, state, bus, message = setup_single_task_test("hello_world_greeting", {"message": "hi"}, "hello_world")
assert machine.process_task_message(message)["success"]
heavy = {"azure", "psycopg", "psycopg_pool", "rasterio", "numpy", "h3", "shapely", "starlette", "uvicorn", "httpx"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_that_is_exported_is_there() -> None:
    import testing

    for name in testing.__all__:
        assert getattr(testing, name) is not None
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError):
        _ = testing.nothing_of_that_name
