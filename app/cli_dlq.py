"""``geoworker dlq``: look at dead letters, put their tasks back, purge them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app.cli_options import as_json, settings_from
from app.cli_show import print_json
from app.dead_letters import DeadLetters
from app.recording import record_command
from app.session import open_session
from app.settings import Settings
from app.transport import dead_letter_queues
from core.errors import ConfigurationError, Fault, InvalidInput
from infrastructure.postgres.database import Database
from infrastructure.postgres.hints import PostgresHints

in_queue = click.option("--queue", help="Whose dead letters (default: DOCKER_QUEUE, long-running-tasks).")
numbers = click.argument("numbers", nargs=-1, type=click.IntRange(min=0), metavar="[NUMBER]...")


@click.group()
def dlq() -> None:
    """Dead letters: list | show | replay | purge. Needs DOCKER_ORCHESTRATION_MODE=service_bus."""


@dlq.command("list")
@click.option("--queue", help="Only that queue's (default: all of them).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@as_json
def list_letters(queue: str | None, limit: int, as_json: bool) -> None:
    """List dead letters: reason, task, job, age, and what the store says of them."""
    with _letters() as (letters, *_):
        found = letters.list_letters(queue, limit=limit)
    if as_json:
        print_json(found)
    else:
        Console().print(_table(found) if found else "no dead letters")


@dlq.command()
@click.argument("number", type=click.IntRange(min=0))
@in_queue
@as_json
def show(number: int, queue: str | None, as_json: bool) -> None:
    """Show one dead letter with its body and properties."""
    with _letters() as (letters, settings, _):
        view = letters.show(queue or settings.docker_queue, number)
    if as_json:
        print_json(view)
        return
    console = Console()
    for name, value in view.items():
        console.print(f"{name:<15}", end="")
        console.print(_age(value) if name == "age_seconds" else str(value), markup=False, highlight=False)


@dlq.command()
@numbers
@click.option("--all", "every", is_flag=True, help="Every dead letter of the queue.")
@in_queue
@as_json
def replay(numbers: tuple[int, ...], every: bool, queue: str | None, as_json: bool) -> None:
    """Put tasks back through PostgreSQL: those that wait get a new message, and the letter goes.

    A letter that cannot be read, or names nothing the store knows, is left where it is.
    """
    _one_of(numbers, every)
    with _letters() as (letters, settings, database):
        name = queue or settings.docker_queue
        answers = letters.replay_all(name) if every else [letters.replay(name, number) for number in numbers]
        record_command(database, "replay_dead_letter", target=_which(name, numbers, every))
    if as_json:
        print_json(answers)
        return
    console = Console()
    for answer in answers:
        mark = "replayed" if answer["replayed"] else "not replayed"
        console.print(f"{answer['number']:>8}  {mark}: {answer['detail']}", markup=False, highlight=False)
    if not answers:
        console.print("no dead letters")


@dlq.command()
@numbers
@click.option("--all", "every", is_flag=True, help="Every dead letter of the queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@in_queue
@as_json
def purge(numbers: tuple[int, ...], every: bool, yes: bool, queue: str | None, as_json: bool) -> None:
    """Take dead letters out for good. Tasks that still wait get new messages all the same."""
    _one_of(numbers, every)
    with _letters() as (letters, settings, database):
        name = queue or settings.docker_queue
        what = "every dead letter" if every else f"{len(numbers)} dead letter(s)"
        if not yes:
            click.confirm(f"Take {what} of {name} out for good?", abort=True, err=True)
        count = letters.purge(name) if every else _remove(letters, name, numbers)
        record_command(database, "purge_dead_letters", target=_which(name, numbers, every))
    if as_json:
        print_json({"queue": name, "purged": count})
    else:
        Console().print(f"{count} purged", highlight=False)


def _remove(letters: DeadLetters, queue: str, numbers: Sequence[int]) -> int:
    for number in numbers:
        letters.remove(queue, number)
    return len(numbers)


def _which(queue: str, numbers: Sequence[int], every: bool) -> str:
    return f"{queue} {'all' if every else ', '.join(map(str, numbers))}"


def _one_of(numbers: Sequence[int], every: bool) -> None:
    if bool(numbers) == every:
        raise InvalidInput("dlq", [Fault("NUMBER", "give numbers, or --all, and not both", list(numbers))])


@contextmanager
def _letters() -> Iterator[tuple[DeadLetters, Settings, Database]]:
    settings = settings_from()
    queues = dead_letter_queues(settings)
    if not queues:
        mode = settings.docker_orchestration_mode
        raise ConfigurationError(
            "settings",
            [Fault("DOCKER_ORCHESTRATION_MODE", "must be service_bus: other modes have no dead letters", mode)],
        )
    with open_session(settings, apply_migrations=False) as session:
        hints = PostgresHints(session.database, worker_id=settings.worker_id)
        yield DeadLetters(queues, session.store, hints), settings, session.database


def _table(letters: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("number", "queue", "reason", "task", "job", "state", "age", "description"):
        table.add_column(name, overflow="fold" if name == "description" else "ellipsis")
    for letter in letters:
        table.add_row(
            str(letter["number"]),
            letter["queue"],
            letter["reason"] or "",
            (letter["task_id"] or "")[:16],
            (letter["job_id"] or "")[:16],
            letter["state"] or "",
            _age(letter["age_seconds"]),
            letter["description"] or "",
        )
    return table


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
