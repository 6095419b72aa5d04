"""docs/operations.md is run: SQL on a migrated database, commands against the command line, paths and metrics against
the application."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest

from app.api.application import create_app
from app.cli import cli
from app.composition import Application, compose
from app.health import health
from app.role import Role
from app.settings import OrchestrationMode, Settings
from app.settings_catalogue import PLATFORM_VARIABLES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SQL = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SYMPTOMS = (
    "messages are dead-lettered",
    "nothing is processed",
    "memory is high",
    "a task hangs",
    "a lock or a lease was lost",
    "a callback was not delivered",
    "the database is away",
    "a token expired",
    "the disk is full",
    "two versions run",
)


def geoworker_lines() -> list[str]:
    """Every ``geoworker`` command of a shell block or in the text, comments left out."""
    lines = [line.split("  #")[0].strip() for block in SHELL for line in block.splitlines()]
    lines += re.findall(r"`(geoworker [^`]+)`", PAGE)
    return [line.replace("NUMBER", "17") for line in lines if line.startswith("geoworker ")]


@pytest.fixture
def application(start_application: Callable[..., Application]) -> Application:
    """A running application with an ended and a waiting job."""
    started = start_application()
    started.machine.submit_job("hello_world", {"n": 2})
    return started


def test_there_is_something_to_run() -> None:
    assert len(SQL) >= 12
    assert len(geoworker_lines()) >= 10


@pytest.mark.parametrize("statement", SQL, ids=lambda text: " ".join(text.split())[:50])
def test_sql_runs_on_a_migrated_database(statement: str, database_url: str, seeded: None) -> None:
    text = statement.replace(":'job_id'", "'job-1'").replace(":'task_id'", "'task-1'")
    assert ":'" not in text
    with psycopg.connect(database_url, autocommit=True) as connection:
        for one in filter(str.strip, text.split(";")):
            connection.execute(one.encode())


@pytest.fixture
def seeded(database_url: str) -> None:
    """Rows of every kind, so that expressions are evaluated and not only parsed."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO app.jobs (job_id, fingerprint, job_type, total_stages, parameters, failure_policy, status)
               VALUES ('job-1', 'f', 'hello_world', 1, '{}', 'fail_fast', 'processing');
               INSERT INTO app.stages (job_id, stage, name, task_type, runs_on, total, remaining)
               VALUES ('job-1', 1, 'greet', 'hello_world_greeting', 'functions', 1, 1);
               INSERT INTO app.tasks
                   (task_id, job_id, job_type, task_type, stage, task_index, runs_on, parameters, status)
               VALUES ('task-1', 'job-1', 'hello_world', 'hello_world_greeting', 1, 0, 'functions', '{}', 'queued');
               INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, error_details)
               VALUES ('task-1', 1, 'w', 'failed', now(), '{"type": "X", "message": "y"}');
               INSERT INTO app.outbox (channel, message, job_id, task_id)
               VALUES ('callbacks', '{}', 'job-1', 'task-1')"""
        )


def test_deleting_old_jobs_leaves_young_and_replayed_ones(database_url: str, seeded: None) -> None:
    script = next(block for block in SQL if "old_jobs" in block)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO app.jobs (job_id, fingerprint, job_type, total_stages, parameters, failure_policy, status,
                                     finished_at, replay_of)
               VALUES ('old', 'o', 't', 1, '{}', 'fail_fast', 'completed', now() - interval '100 days', NULL),
                      ('replayed', 'r', 't', 1, '{}', 'fail_fast', 'failed', now() - interval '100 days', NULL),
                      ('young', 'y', 't', 1, '{}', 'fail_fast', 'completed', now() - interval '10 days', 'replayed');
               INSERT INTO app.stages (job_id, stage, name, task_type, runs_on, total, remaining)
               VALUES ('old', 1, 's', 't', 'docker', 1, 0);
               INSERT INTO app.tasks
                   (task_id, job_id, job_type, task_type, stage, task_index, runs_on, parameters, status)
               VALUES ('old-1', 'old', 't', 't', 1, 0, 'docker', '{}', 'completed')"""
        )
        connection.execute(script.encode())
        left = {row[0] for row in connection.execute("SELECT job_id FROM app.jobs")}
        tasks = {row[0] for row in connection.execute("SELECT task_id FROM app.tasks")}
    assert left == {"job-1", "replayed", "young"}
    assert tasks == {"task-1"}


@pytest.mark.parametrize("line", sorted(set(geoworker_lines())))
def test_commands_exist_and_take_these_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, command_found, words = command.resolve_command(click.Context(command), words)
        assert command_found is not None, name
        command = command_found
    command.make_context(command.name, words)  # raises for an unknown option or a missing argument


def test_paths_are_those_of_the_application(settings: Settings, database_url: str) -> None:
    asked = set(re.findall(r"(?:\$URL|azurewebsites\.net)(/[\w/.-]+)", "\n".join(SHELL)))
    asked |= set(re.findall(r"`(?:GET |POST )(/[\w/{}.-]+)`", PAGE)) | set(re.findall(r"`(/\w+)`", PAGE))
    http = {"docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER, "docker_worker_url": "http://127.0.0.1:9"}
    queues = {
        "docker_orchestration_mode": OrchestrationMode.SERVICE_BUS,
        "service_bus_fqdn": "x.servicebus.windows.net",
    }
    served: list[re.Pattern[str]] = []
    for role, mode in ((Role.ORCHESTRATOR, http), (Role.WORKER, http), (Role.ORCHESTRATOR, queues)):
        wired = compose(settings.model_copy(update=mode), role, database_url=database_url)
        served += [route.path_regex for route in create_app(wired).routes]  # type: ignore[attr-defined]
        wired.lifecycle.drain()
    assert asked
    assert not [path for path in asked if not any(pattern.match(path) for pattern in served)]


def test_what_is_asked_of_health_is_there(application: Application) -> None:
    _, body = health(application)
    asked = set(
        re.findall(
            r"'(\.[\w., ]*)'", "\n".join(line for block in SHELL for line in block.splitlines() if "/health" in line)
        )
    )
    assert asked
    for expression in asked:
        for path in expression.split(", "):
            found: Any = body
            for part in filter(None, path.split(".")):
                assert part in found, f"/health has no {path}"
                found = found[part]


def test_metrics_are_those_of_the_application(application: Application) -> None:
    served = application.metrics.render().decode()
    names = set(re.findall(r"`(geoworker_\w+)`", PAGE)) - {"geoworker_owner"}  # a role of the database
    for group in re.findall(r"geoworker_\(([^)]*)\)", PAGE):
        names |= {f"geoworker_{name}" for name in group.split("|")}
    assert names
    assert not [name for name in names if not re.search(rf"^{name}(_total)?[ {{]", served, re.MULTILINE)]


def test_settings_that_are_named_exist() -> None:
    known = {name.upper() for name in Settings.model_fields} | set(PLATFORM_VARIABLES)
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", PAGE))
    assert named
    assert not named - known


def test_every_symptom_that_operators_meet_has_its_section() -> None:
    headings = [heading.lower() for heading in re.findall(r"^### (.*)$", PAGE, re.MULTILINE)]
    for symptom in SYMPTOMS:
        assert any(heading.startswith(symptom) for heading in headings), symptom


def links(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    [
        "docs/operations.md",
        "deploy/README.md",
        "deploy/azure/README.md",
        "deploy/worker/README.md",
        "deploy/function_app/README.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    assert not [link for link in links(path) if not (path.parent / link).exists()]
