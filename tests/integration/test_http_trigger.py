"""The HTTP-triggered worker over real sockets: durable 202, idempotence, faults, polling, callbacks."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application, compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.states import TERMINAL_JOB_STATUSES
from tests.http_support import Receiver, receivers

SECRET = "whsec_" + base64.b64encode(b"a secret of some length for tests").decode()


@pytest.fixture
def worker_settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER,
            "callback_allowed_hosts": ("127.0.0.1",),
            "allow_private_addresses": True,
            "callback_secrets": Settings.from_env({"CALLBACK_SECRETS": SECRET}).callback_secrets,
        }
    )


@pytest.fixture
def worker(worker_settings: Settings, database_url: str) -> Iterator[Application]:
    application = compose(worker_settings, Role.WORKER, database_url=database_url)
    yield application
    if not application.lifecycle.stopped.is_set():
        application.lifecycle.drain()


@pytest.fixture
def client(worker: Application) -> Iterator[TestClient]:
    with TestClient(create_app(worker)) as client:
        yield client


def ended(client: TestClient, task_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = client.get(f"/task/{task_id}")
        if answer.status_code == 200:
            return dict(answer.json())
        assert answer.status_code == 202
        assert answer.headers["retry-after"].isdigit()
        time.sleep(0.05)
    raise AssertionError(f"{task_id} did not end")


def start(client: TestClient, **body: Any) -> httpx.Response:
    return client.post("/task/start", json=body)


def test_an_ad_hoc_task_is_accepted_run_and_polled_to_its_result(client: TestClient, worker: Application) -> None:
    answer = start(client, task_id="t-1", task_type="hello_world_greeting", params={"message": "Hi", "index": 4})
    assert answer.status_code == 202
    assert answer.headers["location"] == "/task/t-1"
    assert answer.headers["retry-after"].isdigit()
    body = answer.json()
    assert {"task_id", "status", "status_url"} <= set(body)
    view = ended(client, "t-1")
    assert view["status"] == "completed"
    assert view["result"]["greeting"] == "Hi (4)"
    deadline = time.monotonic() + 10
    while (job := worker.store.get_job(body["job_id"])) is None or job.status not in TERMINAL_JOB_STATUSES:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (job.job_type, job.status) == ("single_task", "completed")


def test_the_same_request_again_runs_nothing_twice_and_another_one_is_a_conflict(
    client: TestClient, worker: Application
) -> None:
    body = {"task_id": "t-2", "task_type": "hello_world_greeting", "params": {"index": 1}}
    assert start(client, **body).status_code == 202
    assert start(client, **body).status_code == 202
    ended(client, "t-2")
    assert start(client, **body).status_code == 202
    assert len(worker.store.list_attempts("t-2")) == 1
    for change in ({"params": {"index": 2}}, {"task_type": "hello_world_reply"}, {"job_id": "other"}):
        answer = start(client, **{**body, **change} | ({"params": None} if "task_type" in change else {}))
        assert answer.status_code == 409, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "task_id"),
        ({"task_id": ""}, 422, "task_id"),
        ({"task_id": "a b"}, 422, "task_id"),
        ({"task_id": "x", "colour": 1}, 422, "colour"),
        ({"task_id": "x", "max_attempts": 0}, 422, "max_attempts"),
        ({"task_id": "x", "task_type": "hello_world_greeting", "params": {"index": -1}}, 422, "index"),
        (
            {"task_id": "x", "task_type": "hello_world_greeting", "callback_url": "https://example.org/x"},
            422,
            "callback_url",
        ),
        (
            {"task_id": "x", "task_type": "hello_world_greeting", "callback_url": "ftp://127.0.0.1/"},
            422,
            "callback_url",
        ),
        ({"task_id": "x", "task_type": "no_such_type"}, 404, None),
        ({"task_id": "unknown"}, 404, None),
    ],
)
def test_faults_name_their_field_and_accept_nothing(
    client: TestClient, worker: Application, body: dict[str, Any], status: int, field: str | None
) -> None:
    answer = client.post("/task/start", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if field is not None:
        assert field in {error["field"] for error in answer.json()["errors"]}
    assert worker.store.get_task("x") is None


def test_bodies_that_are_no_json_or_too_large_are_refused(client: TestClient) -> None:
    assert client.post("/task/start", content=b"{").status_code == 422
    assert client.post("/task/start", content=b"[]").status_code == 422
    assert client.post("/task/start", content=b"a=b", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/task/start", content=b" " * 1_100_000).status_code == 413


def test_a_full_backlog_answers_429_with_retry_after(worker_settings: Settings, database_url: str) -> None:
    full = compose(worker_settings.model_copy(update={"max_backlog": 2}), Role.WORKER, database_url=database_url)
    with TestClient(create_app(full, manage_lifecycle=False)) as client:  # nothing runs: the backlog stays
        codes = [start(client, task_id=f"b-{n}", task_type="hello_world_greeting").status_code for n in range(3)]
        assert codes == [202, 202, 429]
        answer = start(client, task_id="b-9", task_type="hello_world_greeting")
        assert answer.headers["retry-after"].isdigit()
        assert start(client, task_id="b-1", task_type="hello_world_greeting").status_code == 202
        assert full.store.get_task("b-9") is None
        assert client.get("/queue/status").json()["waiting"] == 2
    full.lifecycle.drain()


def test_what_was_accepted_before_a_death_is_run_by_the_next_worker(
    worker_settings: Settings, database_url: str
) -> None:
    dead = compose(worker_settings, Role.WORKER, database_url=database_url)
    with TestClient(create_app(dead, manage_lifecycle=False)) as client:  # it accepts and never gets to run
        assert start(client, task_id="d-1", task_type="hello_world_greeting").status_code == 202
    dead.lifecycle.drain()
    heir = compose(worker_settings.model_copy(update={"worker_id": "heir"}), Role.WORKER, database_url=database_url)
    with TestClient(create_app(heir)) as client:
        assert ended(client, "d-1")["status"] == "completed"
        assert heir.store.list_attempts("d-1")[0].worker_id == "heir"


def test_keys_are_needed_when_they_are_configured(worker_settings: Settings, database_url: str) -> None:
    keys = Settings.from_env({"API_KEYS": "old-key-1234,new-key-5678"}).api_keys
    application = compose(worker_settings.model_copy(update={"api_keys": keys}), Role.WORKER, database_url=database_url)
    with TestClient(create_app(application, manage_lifecycle=False)) as client:
        assert client.get("/tasks").status_code == 401
        assert client.get("/tasks", headers={"x-api-key": "wrong"}).status_code == 401
        for key in ("old-key-1234", "new-key-5678"):
            assert client.get("/tasks", headers={"x-api-key": key}).status_code == 200
        assert client.get("/livez").status_code == 200
    application.lifecycle.drain()


def test_a_draining_worker_accepts_nothing_and_says_so(client: TestClient, worker: Application) -> None:
    worker.lifecycle.initiate_shutdown()
    answer = start(client, task_id="s-1", task_type="hello_world_greeting")
    assert answer.status_code == 503
    assert answer.headers["retry-after"].isdigit()
    health = client.get("/health")
    assert health.status_code == 503
    assert health.json()["status"] == "shutting_down"
    assert worker.store.get_task("s-1") is None


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    with receivers() as make:
        yield make


def test_a_failed_task_calls_back_with_what_data_factory_reads(
    client: TestClient, receiver: Callable[..., Receiver], tmp_path: os.PathLike[str]
) -> None:
    target = receiver(200)
    params = {"source_url": f"{tmp_path}/data/nothing.tif"}
    start(client, task_id="c-2", task_type="validate_raster", params=params, callBackUri=target.url)
    assert target.acknowledged.wait(30)
    told = json.loads(target.got[0].body)
    assert (told["status"], told["statusCode"]) == ("failed", "500")
    assert told["error"]["ErrorCode"] == "FILE_NOT_FOUND"
    assert told["error"]["Message"]
    assert told["output"] == {"task_id": "c-2", "status": "failed", "result": {}}


def test_delete_cancels(client: TestClient, worker: Application) -> None:
    worker.lifecycle.workers[0].stop()
    for one in worker.lifecycle.workers:
        one.stop()
    for one in worker.lifecycle.workers:
        one.join(10)
    start(client, task_id="x-1", task_type="hello_world_greeting")
    assert client.delete("/task/x-1").status_code == 202
    assert client.get("/task/x-1").json()["status"] == "cancelled"
    assert client.get("/task/x-1").status_code == 200
    assert client.delete("/task/none").status_code == 404


def test_a_database_that_is_away_is_503_and_nothing_was_accepted(
    client: TestClient, worker: Application, postgres_server: str, database_url: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    assert isinstance(name, str)
    with psycopg.connect(postgres_server, autocommit=True) as admin:

        def allow(yes: bool) -> None:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {yes}".encode())

        def hang_up() -> int:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            return admin.execute(ended, [name]).rowcount

        allow(False)
        try:
            while hang_up():  # one that was just being opened may have slipped in
                time.sleep(0.2)
            answer = start(client, task_id="a-1", task_type="hello_world_greeting")
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"].isdigit()
            assert "nothing was accepted" in answer.json()["detail"]
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 503
        finally:
            allow(True)
    deadline = time.monotonic() + 30
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert worker.store.get_task("a-1") is None
    assert start(client, task_id="a-1", task_type="hello_world_greeting").status_code == 202
    assert ended(client, "a-1")["status"] == "completed"
