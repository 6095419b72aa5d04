"""``/api/test/*``: the shapes that users know, and what keeps production safe from it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from starlette.testclient import TestClient

from app import trial
from app.api.application import create_app
from app.composition import compose
from app.role import Role
from app.settings import Settings
from app.trial import try_handler
from infrastructure.storage.handler_storage import StorageSpec
from services.raster import sample_raster
from tests.file_server import file_server
from tests.process_support import is_alive, wait_until

KEY = {"X-Api-Key": "a-key-for-tests"}
ON = {"ENABLE_TEST_ENDPOINTS": "true", "API_KEYS": KEY["X-Api-Key"]}
Serve = Callable[[Mapping[str, str]], TestClient]

OPEN = StorageSpec().as_dict()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Clients of processes with the given settings. Their database does not exist: nothing here needs one."""
    made = []

    def make(environment: Mapping[str, str]) -> TestClient:
        settings = Settings.from_env(environment, data_dir=tmp_path, worker_id="test-endpoints")
        application = compose(settings, Role.EMBEDDED, database_url="postgresql://127.0.0.1:1/none?connect_timeout=1")
        made.append(application)
        return TestClient(create_app(application, manage_lifecycle=False))

    yield make
    for application in made:
        application.machine.close()
        application.pool.close()


def execute(client: TestClient, task_type: str, body: Any, **headers: str) -> Any:
    return client.post(f"/api/test/execute/{task_type}", json=body, headers={**KEY, **headers})


def test_a_handler_runs_and_shows_what_it_would_leave_and_send(serve: Serve) -> None:
    client = serve(ON)
    answer = execute(client, "hello_world_greeting", {"params": {"message": "Hi"}, "job_type": "hello_world"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == [
        "success",
        "task_type",
        "elapsed_seconds",
        "handler_result",
        "lifecycle",
        "captured_messages",
        "state_snapshot",
    ]
    assert body["success"] is True
    assert body["task_type"] == "hello_world_greeting"
    assert body["handler_result"]["greeting"] == "Hi (0)"
    lifecycle = body["lifecycle"]
    assert set(lifecycle) == {"task_id", "job_id", "job_type", "stage"}
    assert (lifecycle["job_type"], lifecycle["stage"]) == ("hello_world", 1)
    (message,) = body["captured_messages"]
    assert (message["queue_name"], message["message_type"]) == ("geospatial-jobs", "stage_complete")
    assert body["state_snapshot"]["tasks"][lifecycle["task_id"]]["status"] == "COMPLETED"
    assert body["state_snapshot"]["jobs"][lifecycle["job_id"]]["status"] == "PROCESSING"


def test_a_real_raster_is_really_validated(serve: Serve) -> None:
    source = Path(__file__).parents[1] / "data" / "rasters" / "riocogeo__image_tags.tif"
    answer = execute(serve(ON), "validate_raster", {"params": {"source_url": str(source)}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["handler_result"]["band_count"] == 3
    assert answer.json()["lifecycle"]["job_type"] == "test_job"


def test_a_signed_url_is_read_and_its_signature_kept_nowhere(serve: Serve) -> None:
    with file_server() as server:
        url = server.serve("/bronze/test.tif?sv=2024-11-04&sig=c2VjcmV0", sample_raster().read_bytes())
        client = serve({**ON, "SOURCE_ALLOWED_HOSTS": "localhost", "ALLOW_PRIVATE_ADDRESSES": "true"})
        answer = execute(client, "validate_raster", {"params": {"source_url": url}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["handler_result"]["source_crs"] == "EPSG:32618"
    kept = client.get("/api/test/state", headers=KEY).text
    for text in (answer.text, kept):
        assert "test.tif" in text
        assert "c2VjcmV0" not in text


def test_a_failing_handler_answers_500_with_its_error_and_state(serve: Serve) -> None:
    answer = execute(serve(ON), "validate_raster", {"params": {"source_url": "/nowhere/at/all.tif"}})
    assert answer.status_code == 500
    body = answer.json()
    assert body["success"] is False
    assert body["handler_result"]["error_code"] == "FILE_NOT_FOUND"
    assert body["state_snapshot"]["tasks"][body["lifecycle"]["task_id"]]["status"] == "FAILED"


def test_state_and_messages_of_past_executions_are_kept_until_reset(serve: Serve) -> None:
    client = serve(ON)
    assert client.get("/api/test/state", headers=KEY).json() == {"message": "No test state available"}
    assert client.get("/api/test/messages", headers=KEY).json() == {"message": "No messages captured"}
    for index in (1, 2):
        execute(client, "hello_world_greeting", {"params": {"index": index}})
    state = client.get("/api/test/state", headers=KEY).json()
    assert len(state["tasks"]) == len(state["jobs"]) == 2
    assert len(client.get("/api/test/messages", headers=KEY).json()["messages"]) == 2
    assert client.post("/api/test/reset", headers=KEY).status_code == 200
    assert client.get("/api/test/state", headers=KEY).json() == {"message": "No test state available"}


@pytest.mark.parametrize(
    ("task_type", "body", "status", "named"),
    [
        ("no_such_handler", {}, 404, "hello_world_greeting"),
        ("hello_world_greeting", {"params": {"index": -1}}, 422, "index"),
        ("hello_world_greeting", {"parameters": {}}, 422, "parameters"),
        ("hello_world_greeting", {"params": []}, 422, "params"),
        ("hello_world_greeting", {"job_type": 7}, 422, "job_type"),
        ("hello_world_greeting", [], 422, "must be a JSON object"),
        ("process_raster_complete", {"params": {"source_url": "/a.tif", "output_dir": "/mnt"}}, 422, "output_dir"),
    ],
)
def test_bad_requests_are_told_by_field(serve: Serve, task_type: str, body: Any, status: int, named: str) -> None:
    answer = execute(serve(ON), task_type, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.text


@pytest.mark.parametrize("method_and_path", ["POST execute/hello_world_greeting", "GET state", "GET messages"])
def test_they_are_not_there_unless_switched_on_and_need_a_key(serve: Serve, method_and_path: str) -> None:
    method, path = method_and_path.split()
    url = f"/api/test/{path}"
    assert serve({"API_KEYS": KEY["X-Api-Key"]}).request(method, url, headers=KEY).status_code == 404
    assert serve(ON).request(method, url).status_code == 401
    assert serve(ON).request(method, url, headers={"X-Api-Key": "wrong"}).status_code == 401
    without_any_key = serve({"ENABLE_TEST_ENDPOINTS": "true"}).request(method, url)
    assert without_any_key.status_code == 401
    assert "API_KEYS" in without_any_key.json()["detail"]


def test_each_caller_has_a_rate(serve: Serve) -> None:
    client = serve({**ON, "API_KEYS": "a-key-for-tests,another", "TEST_REQUESTS_PER_MINUTE": "2"})
    answers = [execute(client, "no_such_handler", {}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert execute(client, "no_such_handler", {}, **{"X-Api-Key": "another"}).status_code == 404


def test_the_function_app_serves_them_behind_its_function_key(tmp_path: Path, module_database: str) -> None:
    from app.function_app import FrontDoor

    settings = Settings.from_env(
        {"ENABLE_TEST_ENDPOINTS": "true", "DATABASE_URL": module_database, "DOCKER_WORKER_URL": "http://127.0.0.1:9"},
        data_dir=tmp_path,
        docker_orchestration_mode="http_trigger",
    )
    door = FrontDoor(settings)
    try:
        request = func.HttpRequest(
            method="POST",
            url="https://app.example.org/api/test/execute/hello_world_greeting",
            headers={"content-type": "application/json"},
            route_params={"path": "api/test/execute/hello_world_greeting"},
            body=b'{"params": {"message": "Hi"}}',
        )
        answer = asyncio.run(door.bridge.handle_async(request))
        assert answer.status_code == 200, answer.get_body()
        assert b'"greeting":"Hi (0)"' in answer.get_body()
    finally:
        door.application.lifecycle.drain()


def test_a_trial_has_no_settings_and_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://production")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = Path(__file__).parents[1] / "data" / "rasters" / "riocogeo__image_tags.tif"
    done = try_handler("process_raster_complete", {"source_url": str(source)}, "test_job", time_limit=60, storage=OPEN)
    assert done.success, done.handler_result
    assert str(done.handler_result["cog"]["path"]).startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert "DATABASE_URL" not in trial.child_environment()
    assert os.environ["DATABASE_URL"] == "postgresql://production"


def test_a_handler_that_does_not_end_is_killed_with_what_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trial, "STOP_GRACE_SECONDS", 0.1)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'app.trial' in sys.orig_argv:\n"
        "    import subprocess, time\n"
        "    sleeper = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(sleeper.pid))\n"
        "    time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', os.getcwd())}")
    done = try_handler("hello_world_greeting", {}, "test_job", time_limit=2, storage=OPEN)
    assert (done.success, done.handler_result["error_type"]) == (False, "TaskTimeout")
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))
