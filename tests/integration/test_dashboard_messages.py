"""Dead letters and undelivered messages on pages: seen, replayed through the store, and recorded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application, compose
from app.dead_letters import DeadLetters
from app.role import Role
from app.settings import Settings
from core.messages import Channel, JobMessage
from infrastructure.postgres.hints import PostgresHints
from tests.browser import scenes
from transports.service_bus.dead_letters import DeadLetterQueue, DeadLetterRecord

HTML = {"Accept": "text/html"}


class Letters:
    """A dead-letter queue in memory."""

    queue = "geospatial-jobs"

    def __init__(self, records: Sequence[DeadLetterRecord]) -> None:
        self.records = {record.number: record for record in records}

    def peek(self, *, limit: int, after: int = 0) -> Sequence[DeadLetterRecord]:
        return [record for number, record in self.records.items() if number > after][:limit]

    def get(self, number: int) -> DeadLetterRecord | None:
        return self.records.get(number)

    def remove(self, numbers: Collection[int]) -> set[int]:
        return {number for number in numbers if self.records.pop(number, None) is not None}


def letter(number: int, message: JobMessage | None, **facts: Any) -> DeadLetterRecord:
    known: dict[str, Any] = {
        "queue": Letters.queue,
        "number": number,
        "message_id": None,
        "reason": "Malformed",
        "description": "<b>not a message</b>",
        "enqueued_at": datetime.now(UTC) - timedelta(minutes=3),
        "delivery_count": 11,
        "properties": {},
        "body": b"x",
        "message": message,
    }
    return DeadLetterRecord(**{**known, **facts})


@pytest.fixture
def queue() -> Letters:
    return Letters([])


@pytest.fixture
def application(settings: Settings, database_url: str, queue: Letters) -> Iterator[Application]:
    made = compose(settings, Role.EMBEDDED, database_url=database_url)
    desk = DeadLetters([cast("DeadLetterQueue", queue)], made.store, PostgresHints(made.database, worker_id="w"))
    yield replace(made, dead_letters=desk)
    made.lifecycle.drain()


@pytest.fixture
def client(application: Application) -> Iterator[TestClient]:
    asgi = create_app(application, manage_lifecycle=False)
    with TestClient(asgi, base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


def token(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def test_dead_letters_are_seen_and_replayed(client: TestClient, application: Application, queue: Letters) -> None:
    job = application.machine.submit_job("hello_world", {"n": 1}).job
    message = JobMessage(job_id=job.job_id, job_type=job.job_type)
    queue.records = {1: letter(1, message), 2: letter(2, None), 3: letter(3, message)}
    page = client.get("/dead-letters", headers=HTML).text
    assert "&lt;b&gt;not a message&lt;/b&gt;" in page
    assert (page.count("Replay</button>"), "not a message of ours" in page) == (2, True)
    assert client.post("/dead-letters/geospatial-jobs/replay", data={"number": "1"}).status_code == 403
    form = {"csrf_token": token(page)}
    answer = client.post(
        "/dead-letters/geospatial-jobs/replay", data={**form, "number": "1"}, headers={"Accept": "application/json"}
    )
    assert (answer.status_code, answer.json()["location"]) == (200, "/dead-letters")
    assert sorted(queue.records) == [2, 3]
    everything = client.post("/dead-letters/geospatial-jobs/replay", data=form)
    assert everything.status_code == 303
    assert sorted(queue.records) == [2]  # what cannot be read stays
    missing = client.post(
        "/dead-letters/nowhere/replay", data={**form, "number": "1"}, headers={"Accept": "application/json"}
    )
    assert (missing.status_code, "geospatial-jobs" in missing.json()["error"]) == (422, True)
    assert [(one.action, one.target) for one in application.actions.list_actions()] == [
        ("replay_dead_letter", "geospatial-jobs all"),
        ("replay_dead_letter", "geospatial-jobs 1"),
    ]


def test_an_undelivered_message_is_sent_again_once(client: TestClient, application: Application) -> None:
    scenes.every_state(application.database)
    (entry,) = application.outbox.list_given_up(Channel.CALLBACKS, limit=10)
    page = client.get("/callbacks", headers=HTML).text
    assert "hooks.example.org" in page
    address, form = f"/callbacks/{entry['entry_id']}/replay", {"csrf_token": token(page)}
    assert client.post(address, data=form).status_code == 303
    assert application.outbox.list_given_up(Channel.CALLBACKS, limit=10) == []
    assert client.post(address, data=form).status_code == 409
    assert client.post(f"/callbacks/{2**80}/replay", data=form).status_code == 409


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"grain": "everything"}, "grain"),
        ({"grain": "stage", "stage": "two"}, "stage"),
        ({"grain": "stage"}, "stage"),
        ({"grain": "checkpoint", "phase": "-1"}, "phase"),
    ],
)
def test_a_replay_form_names_what_is_wrong(
    client: TestClient, application: Application, form: dict[str, str], field: str
) -> None:
    job = application.machine.submit_job("hello_world", {"n": 1}).job
    page = client.get(f"/jobs/{job.job_id}", headers=HTML).text
    headers = {"Accept": "application/json"}
    answer = client.post(f"/jobs/{job.job_id}/replay", data={"csrf_token": token(page), **form}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"replay: {field}: ")


def test_actions_of_the_api_are_recorded(client: TestClient, application: Application) -> None:
    job_id = client.post("/api/jobs/submit/hello_world", json={"n": 1}).json()["job_id"]
    client.post(f"/api/jobs/{job_id}/cancel")
    run = client.post(f"/api/jobs/{job_id}/retry").json()
    found = [(one.action, one.via, one.actor, one.job_id, one.target) for one in application.actions.list_actions()]
    assert found == [
        ("replay", "api", "anonymous", job_id, run["job_id"]),
        ("cancel", "api", "anonymous", job_id, None),
    ]
    page = client.get("/actions", headers=HTML).text
    assert job_id[:10] in page
