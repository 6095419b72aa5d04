"""The Function App without its host: what it registers, and each registered function called with the host's objects."""

from __future__ import annotations

import asyncio
import json
import types
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from standardwebhooks.webhooks import Webhook

from app.function_app import FrontDoor, RedeliverMessage, build
from app.settings import OrchestrationMode, Settings
from core.messages import JobMessage, StageComplete, TaskMessage, encode
from core.records import Claim, TaskQuery
from core.states import JobStatus
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from services.raster import sample_raster
from testing.emulator import ServiceBusEmulator
from tests.process_support import wait_until

SECRET = "whsec_c2VjcmV0LW9mLXNvbWUtbGVuZ3Ro"
NAMESPACE = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a;UseDevelopmentEmulator=true;"


class HostedApp:
    """The app as the host sees it: functions by name, and the front door behind them."""

    def __init__(self, settings: Settings) -> None:
        self.door = FrontDoor(settings)
        self.functions = {f.get_function_name(): f for f in build(settings, self.door).get_functions()}

    def bindings(self, name: str) -> list[dict[str, Any]]:
        return list(self.functions[name].get_bindings_dict()["bindings"])

    def call(self, name: str, **arguments: Any) -> Any:
        return self.functions[name].get_user_function()(**arguments)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, name: str = "http"
    ) -> func.HttpResponse:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json", **(headers or {})}
        request = func.HttpRequest(method=method, url=f"https://front.example.org{path}", headers=given, body=raw)
        context = types.SimpleNamespace(invocation_id="1", function_name=name, function_directory=".")
        answer: func.HttpResponse = asyncio.run(self.call(name, req=request, context=context))
        return answer


@pytest.fixture
def host(settings: Settings, database_url: str) -> Iterator[Callable[..., HostedApp]]:
    made: list[HostedApp] = []

    def make(mode: OrchestrationMode, **environment: str) -> HostedApp:
        configured = Settings.from_env(
            {"DATABASE_URL": database_url, "CALLBACK_SECRETS": SECRET, **environment},
            docker_orchestration_mode=mode,
            data_dir=settings.data_dir,
            sweep_seconds=3600.0,
        )
        made.append(HostedApp(configured))
        return made[-1]

    yield make
    for one in made:
        one.door.close()


@pytest.fixture
def namespace() -> Iterator[ServiceBusEmulator]:
    with ServiceBusEmulator() as emulator:
        yield emulator


def message(body: bytes) -> func.ServiceBusMessage:
    from azure.functions.servicebus import ServiceBusMessage

    return ServiceBusMessage(
        body=body, message_id="m-1", application_properties={}, user_properties={}, delivery_count=1
    )


def timer(*, past_due: bool = False) -> func.TimerRequest:
    from azure.functions.timer import TimerRequest

    return TimerRequest(past_due=past_due)


def test_in_service_bus_mode_both_queues_have_triggers(host: Callable[..., HostedApp]) -> None:
    app = host(OrchestrationMode.SERVICE_BUS, SERVICE_BUS_CONNECTION_STRING=NAMESPACE)
    assert set(app.functions) == {"http", "callback", "probe", "sweep", "jobs", "tasks"}
    for name, queue in (("jobs", "geospatial-jobs"), ("tasks", "geospatial-tasks")):
        (binding,) = app.bindings(name)
        assert binding["type"] == "serviceBusTrigger"
        assert (binding["queueName"], binding["connection"]) == (queue, "ServiceBusConnection")
        assert binding["name"] == "message"
    (binding,) = app.bindings("sweep")
    assert (binding["type"], binding["schedule"]) == ("timerTrigger", "*/15 * * * * *")


def test_in_http_mode_queues_have_triggers_only_when_they_are_on_service_bus(
    host: Callable[..., HostedApp],
) -> None:
    url = {"DOCKER_WORKER_URL": "http://127.0.0.1:9"}
    assert set(host(OrchestrationMode.HTTP_TRIGGER, **url).functions) == {"http", "callback", "probe", "sweep"}
    with_queues = host(OrchestrationMode.HTTP_TRIGGER, SERVICE_BUS_FQDN="x.servicebus.windows.net", **url)
    assert {"jobs", "tasks"} <= set(with_queues.functions)


@pytest.mark.parametrize(("environment", "level"), [({}, "FUNCTION"), ({"API_KEYS": "key-1234567890"}, "ANONYMOUS")])
def test_routes_and_their_authentication_levels(
    environment: dict[str, str], level: str, host: Callable[..., HostedApp]
) -> None:
    app = host(OrchestrationMode.HTTP_TRIGGER, DOCKER_WORKER_URL="http://127.0.0.1:9", **environment)
    found = {}
    for name in ("http", "callback", "probe"):
        trigger = next(one for one in app.bindings(name) if one["type"] == "httpTrigger")
        found[name] = (trigger["route"], str(getattr(trigger["authLevel"], "name", trigger["authLevel"])))
        assert next(one for one in app.bindings(name) if one["type"] == "http")["name"] == "$return"
    assert found == {
        "http": ("{*path}", level),
        "callback": ("api/task/callback", "ANONYMOUS"),  # its signature is its credential
        "probe": ("{probe:regex(^(livez|readyz|health)$)}", "ANONYMOUS"),
    }


def test_requests_go_through_the_asgi_bridge(host: Callable[..., HostedApp]) -> None:
    app = host(OrchestrationMode.HTTP_TRIGGER, DOCKER_WORKER_URL="http://127.0.0.1:9")
    submitted = app.request("POST", "/api/jobs/submit/hello_world", {"n": 2})
    assert submitted.status_code == 202
    status_url = json.loads(submitted.get_body())["status_url"]
    assert submitted.headers["location"] == status_url
    wait_until(lambda: json.loads(app.request("GET", status_url).get_body())["status"] == "completed", 20)
    missing = app.request("GET", "/api/jobs/status/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    assert app.request("GET", "/livez", name="probe").status_code == 200
    assert json.loads(app.request("GET", "/health", name="probe").get_body())["status"] == "healthy"


def test_callbacks_are_taken_with_their_signature(host: Callable[..., HostedApp]) -> None:
    app = host(OrchestrationMode.HTTP_TRIGGER, DOCKER_WORKER_URL="http://127.0.0.1:9")
    body, now = '{"task_id": "t-1"}', datetime.now(UTC)
    headers = {
        "webhook-id": "msg_t-1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("msg_t-1", now, body),
    }
    taken = app.request("POST", "/api/task/callback", body.encode(), headers, name="callback")
    assert (taken.status_code, json.loads(taken.get_body())["duplicate"]) == (200, False)
    forged = app.request("POST", "/api/task/callback", b'{"task_id": "t-2"}', headers, name="callback")
    assert forged.status_code == 401


def test_the_queue_triggers_carry_a_job_to_its_end(
    host: Callable[..., HostedApp], namespace: ServiceBusEmulator
) -> None:
    """The emulator is the namespace, and this test is the host: it delivers what is in the queues to the triggers."""
    app = host(OrchestrationMode.SERVICE_BUS, SERVICE_BUS_CONNECTION_STRING=namespace.connection_string)
    machine = app.door.application.machine
    job_id = machine.submit_job("hello_world", {"n": 3}).job.job_id
    for _ in range(20):
        for queue, name in (("geospatial-jobs", "jobs"), ("geospatial-tasks", "tasks")):
            for sent in namespace.peek(queue):
                assert app.call(name, message=message(sent.body)) is None
            namespace.purge(queue)
        job = machine.store.get_job(job_id)
        if job is not None and job.status is JobStatus.COMPLETED:
            break
        app.call("sweep", timer=timer())
    assert job is not None
    assert job.status is JobStatus.COMPLETED
    assert job.result_data is not None
    assert job.result_data["greeted"] == 3


def test_a_message_that_cannot_be_handled_is_given_back_to_the_host(host: Callable[..., HostedApp]) -> None:
    app = host(OrchestrationMode.SERVICE_BUS, SERVICE_BUS_CONNECTION_STRING=NAMESPACE)
    with pytest.raises(RedeliverMessage, match="not a message"):
        app.call("jobs", message=message(b"{}"))
    with pytest.raises(RedeliverMessage, match="UnknownJob"):
        app.call("jobs", message=message(encode(JobMessage(job_id="nothing", job_type="hello_world"))))
    unknown = TaskMessage(task_id="t", parent_job_id="j", job_type="x", task_type="hello_world_greeting", stage=1)
    with pytest.raises(RedeliverMessage, match="UnknownTask"):
        app.call("tasks", message=message(encode(unknown)))


def test_a_database_that_is_away_is_503_over_http_and_puts_messages_off(
    host: Callable[..., HostedApp], namespace: ServiceBusEmulator
) -> None:
    away = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1"
    connection = {"SERVICE_BUS_CONNECTION_STRING": namespace.connection_string, "DATABASE_URL": away}
    app = host(OrchestrationMode.SERVICE_BUS, **connection)
    answer = app.request("POST", "/api/jobs/submit/hello_world", {"n": 1})
    assert answer.status_code == 503
    assert answer.headers["retry-after"].isdigit()
    signal = message(encode(StageComplete(job_id="j", job_type="hello_world", completed_stage=1)))
    assert app.call("jobs", message=signal) is None
    (copy,) = namespace.peek("geospatial-jobs")
    assert copy.scheduled_for is not None
    assert copy.body == signal.get_body()


def test_the_timer_finishes_a_job_whose_callback_never_came(host: Callable[..., HostedApp]) -> None:
    """The worker ran the task and died before it could tell anybody: Postgres knows, and the timer looks there."""
    environment = {
        "DOCKER_WORKER_URL": "http://127.0.0.1:9",
        "CALLBACK_URL": "http://127.0.0.1:9/api/task/callback",
    }
    app = host(OrchestrationMode.HTTP_TRIGGER, **environment)
    application = app.door.application
    job_id = application.machine.submit_job("hello_world_triggered", {"n": 1}).job.job_id
    (task,) = wait_until(lambda: application.store.list_tasks(TaskQuery(job_id=job_id, stage=2)), 20)
    application.relay.stop()  # from here on the timer is all there is
    application.sweeper.stop()

    worker = PostgresStateStore(application.database, StoreOptions(worker_id="a worker that dies"))
    claim = worker.claim_task(task.task_id, worker_id="a worker that dies", lease=timedelta(seconds=60))
    assert isinstance(claim, Claim)
    assert worker.complete_task(claim, {"replies": ["Hello"]}).last_in_stage
    job = application.store.get_job(job_id)
    assert job is not None
    assert job.status is JobStatus.PROCESSING

    def ended() -> bool:
        app.call("sweep", timer=timer(past_due=True))
        found = application.store.get_job(job_id)
        return found is not None and found.status is JobStatus.COMPLETED

    wait_until(ended, 60)


def test_a_bad_raster_is_refused_before_the_worker_is_woken_up(host: Callable[..., HostedApp], tmp_path: Path) -> None:
    app = host(OrchestrationMode.HTTP_TRIGGER, DOCKER_WORKER_URL="http://127.0.0.1:9")
    store = app.door.application.store
    broken = tmp_path / "broken.tif"
    broken.write_bytes(sample_raster().read_bytes()[:2000])
    for source in (str(broken), f"{tmp_path}/nothing.tif"):
        submitted = app.request("POST", "/api/jobs/submit/process_raster_docker_http", {"source_url": source})
        job_id = json.loads(submitted.get_body())["job_id"]
        job = wait_until(lambda one=job_id: _failed(store, one), 60)
        assert job.job_type == "process_raster_triggered"
        tasks = store.list_tasks(TaskQuery(job_id=job_id))
        assert [(task.task_type, task.status) for task in tasks] == [("validate_and_trigger_docker", "failed")]


def _failed(store: Any, job_id: str) -> Any:
    job = store.get_job(job_id)
    return job if job is not None and job.status is JobStatus.FAILED else None
