"""Callbacks over real sockets: signed, sent until acknowledged, given up visibly, replayed, never to a wrong place."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from standardwebhooks.webhooks import Webhook
from starlette.testclient import TestClient

from app.api.application import create_app
from app.cli import cli
from app.composition import Application, compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.messages import Channel
from core.states import TaskStatus
from infrastructure.callbacks import CallbackRefused, CallbackVerifier
from infrastructure.outbound import OutboundPolicy
from tests.http_support import Answer, Misbehaviour, Receiver, receivers
from tests.process_support import wait_until

OLD, NEW = ("whsec_c2VjcmV0LW9mLXNvbWUtbGVuZ3Ro", "whsec_YW5vdGhlci1zZWNyZXQtb2YtbGVuZ3Ro")


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    with receivers() as make:
        yield make


@pytest.fixture
def make_worker(settings: Settings, database_url: str) -> Iterator[Callable[..., Application]]:
    """Workers of an HTTP-triggered service that may call loopback."""
    made: list[Application] = []

    def make(**overrides: object) -> Application:
        secrets = Settings.from_env({"CALLBACK_SECRETS": f"{NEW},{OLD}"}).callback_secrets
        configured = settings.model_copy(
            update={
                "docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER,
                "callback_allowed_hosts": ("127.0.0.1", "hooks.example.org"),
                "allow_private_addresses": True,
                "callback_secrets": secrets,
                "callback_timeout_seconds": 0.5,
                **overrides,
            }
        )
        made.append(compose(configured, Role.WORKER, database_url=database_url))
        return made[-1]

    yield make
    for one in made:
        if not one.lifecycle.stopped.is_set():
            one.lifecycle.drain()


def post(client: TestClient, task_id: str, url: str, **params: Any) -> None:
    body = {"task_id": task_id, "task_type": "hello_world_greeting", "params": params, "callback_url": url}
    answer = client.post("/task/start", json=body)
    assert answer.status_code == 202, answer.text


def test_a_receiver_that_fails_hangs_answers_500_and_then_200_is_tried_four_times(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    worker = make_worker()
    target = receiver(Misbehaviour.RESET, Misbehaviour.HANG, 500, 200)
    with TestClient(create_app(worker)) as client:
        post(client, "c-1", target.url)
        target.wait_for(4)
        wait_until(lambda: worker.outbox.next_due([Channel.CALLBACKS]) is None)  # acknowledged and marked
    assert len(target.got) == 4
    assert {one.headers["webhook-id"] for one in target.got} == {"msg_c-1"}
    assert len({one.body for one in target.got}) == 1
    for one in target.got:
        CallbackVerifier([NEW]).verify(one.body, one.headers)  # each try is signed anew, by the first secret
        with pytest.raises(CallbackRefused):
            CallbackVerifier([OLD]).verify(one.body, one.headers)


def test_a_hanging_receiver_holds_up_neither_tasks_nor_other_callbacks(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    worker = make_worker(callback_timeout_seconds=30)
    hanging, quick = receiver(Misbehaviour.HANG), receiver(200)
    with TestClient(create_app(worker)) as client:
        post(client, "h-1", hanging.url)
        hanging.wait_for(1)
        began = time.monotonic()
        post(client, "h-2", quick.url)
        wait_until(lambda: client.get("/task/h-2").status_code == 200, 20)
        job_id = client.get("/task/h-2").json()["job_id"]
        wait_until(lambda: worker.store.get_job(job_id).status == "completed", 20)  # type: ignore[union-attr]
        assert time.monotonic() - began < 20
        hanging.close()
        assert quick.acknowledged.wait(20)


def test_a_callback_that_is_never_acknowledged_is_given_up_listed_and_replayed(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver], database_url: str
) -> None:
    worker = make_worker(callback_max_age_seconds=0.3)
    target = receiver(503)
    with TestClient(create_app(worker)) as client:
        post(client, "u-1", f"{target.url}?token=secret")
        found = wait_until(lambda: client.get("/api/callbacks/undelivered").json()["undelivered"], 30)
        assert [(one["task_id"], one["task_status"], one["last_error"]) for one in found] == [
            ("u-1", "completed", "answered 503")
        ]
        assert found[0]["receiver"] == f"http://127.0.0.1:{target.port}"
        assert "secret" not in json.dumps(found)
        tries = len(target.got)
        assert client.get("/health").json()["relay"]["given_up"] == 1

        target._replies[:] = [200]
        environment = {"DATABASE_URL": database_url}
        listed = CliRunner().invoke(cli, ["callbacks", "list", "--json"], env=environment)
        assert [one["entry_id"] for one in json.loads(listed.output)] == [found[0]["entry_id"]]
        number = str(found[0]["entry_id"])
        replayed = CliRunner().invoke(cli, ["callbacks", "replay", number, "--json"], env=environment)
        assert (replayed.exit_code, json.loads(replayed.output)) == (0, {"replayed": 1, "not_found": 0})
        assert target.acknowledged.wait(20)
        assert len(target.got) == tries + 1
        wait_until(lambda: not client.get("/api/callbacks/undelivered").json()["undelivered"])
        assert client.post(f"/api/callbacks/{number}/replay").status_code == 404
        again = CliRunner().invoke(cli, ["callbacks", "replay", number], env=environment)
        assert (again.exit_code, again.output.strip()) == (1, "0 to be sent again, 1 not found")
        nothing = CliRunner().invoke(cli, ["callbacks", "list"], env=environment)
        assert "no undelivered callbacks" in nothing.output


def test_a_receiver_that_is_gone_is_given_up_at_once_and_replayed_over_http(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    worker = make_worker()
    target = receiver(410, 204)
    with TestClient(create_app(worker)) as client:
        post(client, "g-1", target.url)
        found = wait_until(lambda: client.get("/api/callbacks/undelivered").json()["undelivered"], 30)
        answer = client.post(f"/api/callbacks/{found[0]['entry_id']}/replay")
        assert (answer.status_code, answer.json()["replayed"]) == (202, True)
        assert target.acknowledged.wait(20)
    assert len(target.got) == 2


def test_a_callback_that_is_refused_again_says_that_it_was_sent_again(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    target = receiver(410)
    with TestClient(create_app(make_worker()), base_url="http://localhost") as client:

        def given_up() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = client.get("/api/callbacks/undelivered").json()["undelivered"]
            return found

        post(client, "g-2", target.url)
        (first,) = wait_until(given_up, 30)
        assert first["replays"] == 0
        client.post(f"/api/callbacks/{first['entry_id']}/replay")
        target.wait_for(2)
        (second,) = wait_until(given_up, 30)
        assert (second["entry_id"], second["replays"]) == (first["entry_id"], 1)
        assert "though sent again once" in client.get("/callbacks").text


def test_redirects_are_not_followed(make_worker: Callable[..., Application], receiver: Callable[..., Receiver]) -> None:
    elsewhere = receiver(200)
    target = receiver(Answer(307, {"Location": elsewhere.url}), 200)
    with TestClient(create_app(make_worker())) as client:
        post(client, "r-1", target.url)
        assert target.acknowledged.wait(30)
    assert len(target.got) == 2
    assert elsewhere.got == []


def test_retry_after_of_the_receiver_is_honoured(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    worker = make_worker()
    target = receiver(Answer(429, {"Retry-After": "3600"}))
    with TestClient(create_app(worker)) as client:
        post(client, "a-1", target.url)
        target.wait_for(1)
        due_in = wait_until(lambda: _later(worker))
    assert timedelta(minutes=50) < due_in <= timedelta(hours=1)
    assert len(target.got) == 1


def _later(worker: Application) -> timedelta | None:
    due_in = worker.outbox.next_due([Channel.CALLBACKS])
    return due_in if due_in is not None and due_in > timedelta(minutes=1) else None


def test_the_connection_goes_to_the_address_that_was_checked(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves differently the second time (DNS rebinding) wins nothing: it is asked for once a try."""
    target = receiver(200)
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "hooks.example.org":
            return real(host, *arguments, **options)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, target.port))]

    worker = make_worker()
    with TestClient(create_app(worker)) as client:
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        post(client, "d-1", f"http://hooks.example.org:{target.port}/done?x=1")
        assert target.acknowledged.wait(30)
    assert asked == ["hooks.example.org"]
    assert target.got[0].headers["Host"] == f"hooks.example.org:{target.port}"
    assert target.got[0].path == "/done?x=1"


def test_a_host_that_was_allowed_and_is_no_more_is_not_called(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    target = receiver(200)
    accepting = make_worker()
    with TestClient(create_app(accepting, manage_lifecycle=False)) as client:
        post(client, "n-1", target.url)
    strict = make_worker(callback_allowed_hosts=())
    with TestClient(create_app(strict)) as client:
        found = wait_until(lambda: client.get("/api/callbacks/undelivered").json()["undelivered"], 30)
    assert "allow-list" in found[0]["last_error"]
    assert target.got == []


def test_a_callback_row_outlives_the_worker_that_ran_the_task(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    """The reply to the first try is lost with the worker: the next one calls again, with the same id."""
    target = receiver(Misbehaviour.HANG, 200)
    first = make_worker(callback_timeout_seconds=1)
    with TestClient(create_app(first)) as client:
        post(client, "o-1", target.url)
        target.wait_for(1)
    second = make_worker()
    with TestClient(create_app(second)):
        assert target.acknowledged.wait(40)
    assert {one.headers["webhook-id"] for one in target.got} == {"msg_o-1"}


def signed(secret: str, message_id: str, body: str, moment: datetime) -> dict[str, str]:
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, moment, body),
    }


@pytest.fixture
def orchestrator(settings: Settings, database_url: str) -> Iterator[TestClient]:
    configured = settings.model_copy(
        update={
            "docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER,
            "docker_worker_url": "http://127.0.0.1:9",
            "callback_secrets": Settings.from_env({"CALLBACK_SECRETS": f"{NEW},{OLD}"}).callback_secrets,
            "api_keys": Settings.from_env({"API_KEYS": "a-key"}).api_keys,
            "max_body_bytes": 2000,
        }
    )
    application = compose(configured, Role.ORCHESTRATOR, database_url=database_url)
    with TestClient(create_app(application)) as client:
        yield client


def test_signed_callbacks_are_accepted_once_and_replays_are_told_apart(orchestrator: TestClient) -> None:
    body, now = json.dumps({"task_id": "t-1"}), datetime.now(UTC)
    for number, secret in enumerate((NEW, OLD)):  # both verify while the secret is being rotated
        headers = signed(secret, f"msg_{number}", body, now)
        first = orchestrator.post("/api/task/callback", content=body, headers=headers)
        assert (first.status_code, first.json()["duplicate"]) == (200, False)
        again = orchestrator.post("/api/task/callback", content=body, headers=headers)
        assert (again.status_code, again.json()["duplicate"]) == (200, True)
        later = signed(secret, f"msg_{number}", body, now + timedelta(seconds=5))  # our own second try
        assert orchestrator.post("/api/task/callback", content=body, headers=later).json()["duplicate"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(NEW, "m", "{}", datetime.now(UTC) - timedelta(minutes=6)),
        signed(NEW, "m", "{}", datetime.now(UTC) + timedelta(hours=1)),
        signed("whsec_d3Jvbmctc2VjcmV0LW9mLWxlbmd0aA==", "m", "{}", datetime.now(UTC)),
        signed(NEW, "m", '{"other": 1}', datetime.now(UTC)),
        {**signed(NEW, "m", "{}", datetime.now(UTC)), "webhook-id": "another"},
        {**signed(NEW, "m", "{}", datetime.now(UTC)), "webhook-signature": "v1,!"},
        {**signed(NEW, "m", "{}", datetime.now(UTC)), "webhook-timestamp": "soon"},
        {"x-api-key": "a-key"},
    ],
)
def test_callbacks_without_a_fresh_and_valid_signature_are_refused(
    orchestrator: TestClient, headers: dict[str, str]
) -> None:
    answer = orchestrator.post("/api/task/callback", content="{}", headers=headers)
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_oversized_callback_is_not_read(orchestrator: TestClient) -> None:
    assert orchestrator.post("/api/task/callback", content=b" " * 2001).status_code == 413


def test_the_policy_of_a_worker_is_closed_by_default() -> None:
    policy = OutboundPolicy(allowed_hosts=Settings.from_env({}).callback_allowed_hosts)
    with pytest.raises(Exception, match="allow-list"):
        policy.check("https://example.org/", field="callback_url")


def test_the_end_of_a_cancelled_task_is_called_back_too(
    make_worker: Callable[..., Application], receiver: Callable[..., Receiver]
) -> None:
    worker = make_worker()
    target = receiver(200)
    with TestClient(create_app(worker, manage_lifecycle=False)) as client:  # nothing runs: the task waits
        post(client, "x-1", target.url)
        assert client.post("/task/x-1/cancel").status_code == 202
    worker.lifecycle.start()
    assert target.acknowledged.wait(30)
    told = json.loads(target.got[0].body)
    assert (told["status"], told["statusCode"]) == (TaskStatus.CANCELLED, "500")
    assert told["error"]["ErrorCode"]
