"""Dead letters over HTTP and on the command line: listed, shown, replayed through the store, purged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from app.api.application import create_app
from app.cli import cli
from app.composition import Application, compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.errors import ConfigurationError, ErrorInfo
from core.messages import JobMessage, TaskMessage, encode
from core.records import TaskQuery
from testing.emulator import ServiceBusEmulator
from tests.integration.service_bus.conftest import QUICK
from transports.base import DeadLetter
from transports.service_bus import ServiceBusConnection, ServiceBusSource
from transports.service_bus.dead_letters import DeadLetterQueue

QUEUE = "long-running-tasks"


@dataclass
class Desk:
    application: Application
    client: TestClient
    emulator: ServiceBusEmulator

    def waiting_job(self, n: int = 2) -> list[str]:
        """A job whose docker tasks lie in the queue; nobody works on them."""
        job_id = self.client.post("/api/jobs/submit/hello_world_docker", json={"n": n, "message": f"{n}"}).json()[
            "job_id"
        ]
        self.emulator.wait_until(lambda emulator: emulator.counts(QUEUE).active == n, timeout=30)
        return [task.task_id for task in self.application.store.list_tasks(TaskQuery(job_id=job_id))]

    def bury(self, count: int = 1, queue: str = QUEUE) -> None:
        """What a worker does with a message that names nothing it knows."""
        with ServiceBusSource(self.connection, queue) as source:
            for _ in range(count):
                delivery = source.receive(timedelta(seconds=5))
                assert delivery is not None
                delivery.settle(DeadLetter("UnknownTask", "the store knows no such task"))

    @property
    def connection(self) -> ServiceBusConnection:
        return ServiceBusConnection(connection_string=self.emulator.connection_string, options=QUICK)

    def letters(self) -> list[dict[str, Any]]:
        answer = self.client.get(f"/api/dead-letters?queue={QUEUE}")
        self.check(answer.json(), "/api/dead-letters", "get", 200)
        return answer.json()["dead_letters"]

    def check(self, body: Any, path: str, method: str, status: int) -> None:
        """Hold an answer against the OpenAPI document."""
        document = self.client.get("/openapi.json").json()
        answer = document["paths"][path][method]["responses"][str(status)]
        (media,) = answer["content"].values()
        jsonschema.validate(body, {**media["schema"], "components": document["components"]})


@pytest.fixture
def desk(database_url: str, settings: Settings, closing: object) -> Iterator[Desk]:
    with ServiceBusEmulator() as emulator:
        configured = settings.model_copy(
            update={
                "docker_orchestration_mode": OrchestrationMode.SERVICE_BUS,
                "service_bus_connection_string": type(settings)
                .model_validate({"service_bus_connection_string": emulator.connection_string})
                .service_bus_connection_string,
            }
        )
        application = compose(configured, Role.ORCHESTRATOR, database_url=database_url)
        with TestClient(create_app(application)) as client:
            yield Desk(application, client, emulator)


def test_a_dead_letter_is_shown_with_its_task_and_replayed_through_the_store(desk: Desk) -> None:
    tasks = desk.waiting_job()
    desk.bury()
    (letter,) = desk.letters()
    assert letter["reason"] == "UnknownTask"
    assert letter["description"] == "the store knows no such task"
    assert letter["task_id"] in tasks
    assert letter["task_type"] == "hello_world_greeting"
    assert letter["state"] in ("pending", "queued")
    assert 0 <= letter["age_seconds"] < 60
    shown = desk.client.get(f"/api/dead-letters/{QUEUE}/{letter['number']}").json()
    desk.check(shown, "/api/dead-letters/{queue}/{number}", "get", 200)
    assert json.loads(shown["body"])["task_id"] == letter["task_id"]
    assert shown["properties"]["job_id"] == letter["job_id"]
    assert len(desk.letters()) == 1, "looking takes nothing away"

    answer = desk.client.post(f"/api/dead-letters/{QUEUE}/{letter['number']}/replay")
    desk.check(answer.json(), "/api/dead-letters/{queue}/{number}/replay", "post", 202)
    assert (answer.status_code, answer.json()["replayed"]) == (202, True)
    desk.emulator.wait_until(lambda emulator: emulator.counts(QUEUE).active == 2, timeout=30)
    assert {json.loads(message.body)["task_id"] for message in desk.emulator.peek(QUEUE)} == set(tasks)
    assert desk.letters() == []
    again = desk.client.post(f"/api/dead-letters/{QUEUE}/{letter['number']}/replay")
    assert (again.status_code, again.headers["content-type"]) == (404, "application/problem+json")


def test_replaying_leaves_alone_what_has_ended_and_what_it_does_not_know(desk: Desk) -> None:
    waiting, ended = desk.waiting_job()
    desk.application.store.fail_waiting_task(ended, ErrorInfo(type="T", message="m", retryable=False))
    stranger = TaskMessage(task_id="stranger", parent_job_id="j", job_type="x", task_type="y", stage=1)
    desk.emulator.send(QUEUE, encode(stranger))
    desk.emulator.send(QUEUE, b"no message at all")
    with ServiceBusSource(desk.connection, QUEUE) as source:
        while (delivery := source.receive(timedelta(seconds=0.5))) is not None:
            delivery.settle(DeadLetter("Test", "all of them"))
    assert [letter["reason"] for letter in desk.letters()].count("MalformedMessage") == 1
    answer = desk.client.post(f"/api/dead-letters/{QUEUE}/replay")
    desk.check(answer.json(), "/api/dead-letters/{queue}/replay", "post", 202)
    said = {row.get("task_id"): row for row in answer.json()["replayed"]}
    assert said[ended]["replayed"] is False
    assert "geoworker retry" in said[ended]["detail"]
    left = {letter["task_id"]: letter for letter in desk.letters()}
    assert set(left) == {"stranger", None}, "what cannot be replayed stays where it is"
    number = left["stranger"]["number"]
    refused = desk.client.post(f"/api/dead-letters/{QUEUE}/{number}/replay")
    assert refused.status_code == 409
    assert "stranger" in refused.json()["detail"]
    assert desk.client.delete(f"/api/dead-letters/{QUEUE}/{number}").status_code == 204
    assert desk.client.delete(f"/api/dead-letters/{QUEUE}/{number}").status_code == 404
    assert desk.client.delete(f"/api/dead-letters/{QUEUE}").json() == {"purged": 1}
    assert desk.letters() == []
    assert waiting


def test_a_jobs_dead_letter_is_replayed(desk: Desk) -> None:
    reader = desk.application.workers["jobs_worker"]
    reader.stop()
    assert reader.join(20)
    desk.client.post("/api/jobs/submit/hello_world_docker", json={"n": 1})
    desk.bury(queue="geospatial-jobs")
    (letter,) = desk.client.get("/api/dead-letters").json()["dead_letters"]
    assert (letter["message_type"], letter["state"], letter["task_id"]) == ("job", "queued", None)
    answer = desk.client.post(f"/api/dead-letters/geospatial-jobs/{letter['number']}/replay").json()
    assert answer["replayed"] is True
    desk.emulator.wait_until(lambda emulator: emulator.counts("geospatial-jobs").active == 1, timeout=30)
    assert desk.client.get("/api/dead-letters").json() == {"dead_letters": []}


def test_faults_of_the_caller_and_of_the_service_are_problems(desk: Desk) -> None:
    unknown = desk.client.get("/api/dead-letters?queue=nowhere")
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["field"] == "queue"
    assert desk.client.get(f"/api/dead-letters/{QUEUE}/77").status_code == 404
    assert desk.client.get("/api/dead-letters?after=5").status_code == 422
    desk.emulator.refuse_connections()
    desk.emulator.drop_connections()
    away = desk.client.get(f"/api/dead-letters?queue={QUEUE}")
    assert away.status_code == 503
    assert QUEUE in away.json()["detail"]
    assert "SAS_KEY_VALUE" not in away.text
    desk.emulator.accept_connections()


def test_one_of_many_letters_is_found_and_the_others_stay(desk: Desk) -> None:
    for number in range(230):
        desk.emulator.send(QUEUE, encode(JobMessage(job_id=f"j{number}", job_type="x")))
    with ServiceBusSource(desk.connection, QUEUE) as source:
        while (delivery := source.receive(timedelta(seconds=0.3))) is not None:
            delivery.settle(DeadLetter("Test", "many"))
    queue = DeadLetterQueue(desk.connection, QUEUE)
    letters = queue.peek(limit=1000)
    assert len(letters) == 230
    assert [letter.number for letter in queue.peek(limit=3, after=letters[9].number)] == [
        letter.number for letter in letters[10:13]
    ]
    assert queue.remove([letters[220].number]) == {letters[220].number}
    assert len(queue.peek(limit=1000)) == 229
    assert queue.purge() == 229
    assert queue.peek(limit=1) == []


def test_the_command_line_lists_shows_replays_and_purges(
    desk: Desk, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_ORCHESTRATION_MODE", "service_bus")
    monkeypatch.setenv("SERVICE_BUS_CONNECTION_STRING", desk.emulator.connection_string)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["dlq", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "no dead letters" in run("list")
    desk.waiting_job()
    desk.bury(2)
    first, second = json.loads(run("list", "--json"))
    listed = run("list")
    assert "UnknownTask" in listed
    assert first["task_id"][:16] in listed
    assert first["task_id"] in run("show", str(first["number"]))
    assert "1 purged" in run("purge", "--yes", str(first["number"]))
    assert "replayed: its message is sent again" in run("replay", "--all")
    assert json.loads(run("list", "--json")) == []
    desk.emulator.wait_until(lambda emulator: emulator.counts(QUEUE).active >= 1, timeout=30)
    assert second["task_id"] in {json.loads(message.body)["task_id"] for message in desk.emulator.peek(QUEUE)}
    assert json.loads(run("purge", "--all", "--yes", "--json")) == {"queue": QUEUE, "purged": 0}


def test_the_command_line_says_which_mode_has_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_ORCHESTRATION_MODE", raising=False)
    with pytest.raises(ConfigurationError, match="DOCKER_ORCHESTRATION_MODE: must be service_bus"):
        CliRunner().invoke(cli, ["dlq", "list"], catch_exceptions=False)


def test_a_task_whose_message_was_dead_lettered_comes_back_by_itself(desk: Desk) -> None:
    tasks = desk.waiting_job()
    desk.bury(2)
    database = desk.application.database
    database.execute("UPDATE app.tasks SET next_hint_at = now() - interval '1 second'")  # HINT_SECONDS have passed
    desk.emulator.wait_until(lambda emulator: emulator.counts(QUEUE).active == 2, timeout=30)
    assert {json.loads(message.body)["task_id"] for message in desk.emulator.peek(QUEUE)} == set(tasks)
    assert len(desk.letters()) == 2, "the letters stay for a person to look at"
    (task, _) = (desk.application.store.get_task(task_id) for task_id in tasks)
    assert task is not None
    assert (task.attempt, task.failures) == (0, 0)


def test_a_task_whose_new_message_is_on_its_way_gets_no_second_one(desk: Desk) -> None:
    desk.waiting_job()
    desk.bury()
    (letter,) = desk.letters()
    desk.application.relay.stop()
    database = desk.application.database
    database.execute("UPDATE app.tasks SET next_hint_at = now() - interval '1 second'")
    desk.application.sweeper.run_once()
    answer = desk.client.post(f"/api/dead-letters/{QUEUE}/{letter['number']}/replay").json()
    assert answer["replayed"] is False
    assert "on its way already" in answer["detail"]
