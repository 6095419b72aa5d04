"""The HTTP API: jobs, faults as problem documents, and an OpenAPI document that is true."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application, compose
from app.role import Role
from app.settings import OrchestrationMode, Settings


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory, module_database: str) -> Iterator[Application]:
    configured = Settings.from_env({}, data_dir=tmp_path_factory.mktemp("api"), worker_id="api")
    application = compose(configured, Role.EMBEDDED, database_url=module_database)
    yield application
    application.lifecycle.drain()


@pytest.fixture(scope="module")
def client(application: Application) -> Iterator[TestClient]:
    with TestClient(create_app(application)) as client:
        yield client


def ended(client: TestClient, url: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        view: dict[str, Any] = client.get(url).json()
        if view["status"] not in ("queued", "processing"):
            return view
        time.sleep(0.02)
    raise AssertionError(view)


def test_a_job_is_submitted_followed_and_recognised(client: TestClient) -> None:
    answer = client.post("/api/jobs/submit/hello_world", json={"n": 3})
    assert answer.status_code == 202
    assert answer.headers["location"] == answer.json()["status_url"]
    view = ended(client, answer.headers["location"])
    assert view["percent"] == 100.0
    assert [stage["ended"] for stage in view["stages"]] == [3, 1]
    again = client.post("/api/jobs/submit/hello_world", json={"n": 3})
    assert (again.status_code, again.json()["created"], again.json()["status"]) == (200, False, "completed")
    forced = client.post("/api/jobs/submit/hello_world?force=true", json={"n": 3})
    assert (forced.status_code, forced.json()["run"]) == (202, 2)
    ended(client, forced.headers["location"])
    tasks = client.get(f"/api/jobs/{view['job_id']}/tasks?stage=1").json()["tasks"]
    history = client.get(f"/api/tasks/{tasks[0]['task_id']}").json()["attempts"]
    assert [attempt["outcome"] for attempt in history] == ["completed"]


def test_jobs_are_listed_in_pages(client: TestClient) -> None:
    for number in range(5):
        client.post("/api/jobs/submit/hello_world", json={"n": 0, "message": f"page {number}"})
    seen: list[str] = []
    before = ""
    while True:
        page = client.get(f"/api/jobs?limit=2&job_type=hello_world{before}").json()
        seen += [job["job_id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert len(seen) == len(set(seen)) >= 5


@pytest.mark.parametrize(
    ("method", "url", "body", "status", "text"),
    [
        ("POST", "/api/jobs/submit/no_such_job", {}, 404, "hello_world"),
        ("POST", "/api/jobs/submit/hello_world", {"n": -1, "x": 2}, 422, "x"),
        ("POST", "/api/jobs/submit/hello_world?force=maybe", {}, 422, "force"),
        ("GET", "/api/jobs/status/nothing", None, 404, "nothing"),
        ("GET", "/api/jobs?limit=0", None, 422, "limit"),
        ("GET", "/api/jobs?status=blue", None, 422, "completed"),
        ("GET", "/api/jobs?created_after=yesterday", None, 422, "created_after"),
        ("GET", "/api/jobs/nothing/tasks", None, 404, "nothing"),
        ("GET", "/api/tasks/nothing", None, 404, "nothing"),
        ("POST", "/api/jobs/nothing/cancel", None, 404, "nothing"),
        ("POST", "/api/jobs/nothing/retry", {"from_stage": "two"}, 422, "from_stage"),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("PUT", "/api/jobs", {}, 405, "Method Not Allowed"),
    ],
)
def test_faults_are_problem_documents(  # noqa: PLR0917 - one parameter each
    client: TestClient, method: str, url: str, body: Any, status: int, text: str
) -> None:
    answer = client.request(method, url, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert text in answer.text


def test_a_retry_of_a_completed_job_is_a_conflict(client: TestClient) -> None:
    done = client.post("/api/jobs/submit/hello_world", json={"n": 1, "message": "done"})
    ended(client, done.headers["location"])
    assert client.post(f"/api/jobs/{done.json()['job_id']}/retry").status_code == 409
    assert client.post(f"/api/jobs/{done.json()['job_id']}/cancel").status_code == 409
    again = client.post(f"/api/jobs/{done.json()['job_id']}/retry", json={"from_stage": 1})
    assert (again.status_code, again.json()["replay_of"]) == (202, done.json()["job_id"])


def test_types_carry_the_schemas_of_their_parameters(client: TestClient) -> None:
    types = {entry["job_type"]: entry for entry in client.get("/api/jobs/types").json()["job_types"]}
    assert {"hello_world", "process_raster_v2", "process_raster_docker", "bootstrap_h3_docker"} <= set(types)
    assert types["process_raster_triggered"]["aliases"] == ["process_raster_docker_http"]
    assert "source_url" in types["process_raster_docker"]["parameters"]["properties"]


def test_health_and_metrics(client: TestClient) -> None:
    health = client.get("/health").json()
    assert health["status"] == "healthy"
    assert health["background_workers"]["queue_worker"]["running"]
    assert health["sweeper"]["passes"] >= 1
    assert client.get("/readyz").status_code == 200
    assert "geoworker_relay_messages_sent_total" in client.get("/metrics").text


EXPLORE = hypothesis_settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


@pytest.fixture
def pool_with_its_own_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis refuses draws during which the global generator moves; the pool's threads take jitter from it."""
    monkeypatch.setattr("psycopg_pool.base.random", random.Random(0).random)


def explore(application: Application, excluded: str) -> None:
    asgi = create_app(application, manage_lifecycle=False)
    schema = schemathesis.openapi.from_asgi("/openapi.json", asgi).exclude(path_regex=excluded)

    for operation in schema.get_all_operations():

        @EXPLORE
        @given(case=operation.ok().as_strategy())
        def run(case: Case) -> None:
            case.call_and_validate(
                checks=(
                    schemathesis.checks.not_a_server_error,
                    schemathesis.specs.openapi.checks.status_code_conformance,
                    schemathesis.specs.openapi.checks.content_type_conformance,
                    schemathesis.specs.openapi.checks.response_schema_conformance,
                )
            )

        run()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("pool_with_its_own_chance")
def test_the_openapi_document_of_the_orchestrator_is_true(application: Application, client: TestClient) -> None:
    # Submissions of real work are left to their own tests: they would run it.
    explore(application, excluded="/api/jobs/submit/(?!hello_world$)")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("pool_with_its_own_chance")
def test_the_openapi_document_of_the_worker_is_true(database_url: str, settings: Settings) -> None:
    configured = settings.model_copy(update={"docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER})
    worker = compose(configured, Role.WORKER, database_url=database_url)
    explore(worker, excluded="^/(readyz|health)$")
    worker.lifecycle.drain()
