"""The plugin's fixtures, in a pytest run of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import psycopg

from testing import DuplicateMessages


def test_single_task(geoworker_single_task):
    machine, state, bus, message = geoworker_single_task("hello_world_greeting", {"message": "hi"}, "hello_world")
    assert machine.process_task_message(message)["success"]


def test_workbench(geoworker_workbench):
    bench = geoworker_workbench(faults=[DuplicateMessages()])
    assert bench.finish(bench.submit("hello_world").job_id).succeeded


def test_run_job(geoworker_run_job):
    assert geoworker_run_job("hello_world", {"n": 2}).result["greeted"] == 2


def write(address):
    with psycopg.connect(address, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM app.jobs").fetchone() == (0,)
        connection.execute(
            "INSERT INTO app.jobs (job_id, fingerprint, job_type, total_stages, parameters, failure_policy)"
            " VALUES ('j', 'f', 't', 1, '{}', 'fail_fast')"
        )


def test_a_database(geoworker_database_url):
    write(geoworker_database_url)


def test_another_database(geoworker_pool, geoworker_database_url):
    write(geoworker_database_url)
    geoworker_pool.ping()


def test_service_bus(geoworker_service_bus):
    from azure.servicebus import ServiceBusClient

    with ServiceBusClient.from_connection_string(geoworker_service_bus.connection_string) as client:
        with client.get_queue_receiver("long-running-tasks") as receiver:
            assert receiver.receive_messages(max_wait_time=0.2) == []
"""


def test_every_fixture_works_in_a_project_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:geoworker", "-p", "testing.pytest_plugin"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-W", "error", "-c", "/dev/null", f"--rootdir={tmp_path}", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
