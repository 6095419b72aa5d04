"""``geoworker callbacks``: the callbacks that nobody acknowledged, seen and sent again."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from app.cli_options import as_json, data_dir, settings_from
from app.cli_show import print_json
from app.recording import record_command
from app.session import open_session
from core.messages import Channel
from infrastructure.postgres.outbox_store import PostgresOutboxStore


@click.group()
def callbacks() -> None:
    """Callbacks that were given up: list them, send them again."""


@callbacks.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@data_dir
@as_json
def list_undelivered(limit: int, data_dir: Path | None, as_json: bool) -> None:
    """List callbacks that were given up undelivered, the latest first."""
    with open_session(settings_from(data_dir)) as session:
        found = PostgresOutboxStore(session.database).list_given_up(Channel.CALLBACKS, limit=limit)
    if as_json:
        print_json([dict(entry) for entry in found])
    elif not found:
        Console().print("no undelivered callbacks")
    else:
        table = Table("number", "task", "receiver", "tries", "sent again", "given up", "last error", box=None)
        for entry in found:
            shown = [entry[name] for name in ("entry_id", "task_id", "receiver", "tries", "replays")]
            table.add_row(*map(str, shown), entry["given_up_at"][:19], entry["last_error"] or "")
        Console().print(table)


@callbacks.command()
@click.argument("numbers", nargs=-1, type=click.IntRange(min=0, max=2**63 - 1), metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="Send every undelivered callback again.")
@data_dir
@as_json
def replay(numbers: tuple[int, ...], everything: bool, data_dir: Path | None, as_json: bool) -> None:
    """Send undelivered callbacks again, by the NUMBERs that list shows; exits with 1 when one was not found.

    A running worker's relay sends them within a second.
    """
    if everything == bool(numbers):
        raise click.UsageError("give NUMBERs or --all")
    with open_session(settings_from(data_dir)) as session:
        outbox = PostgresOutboxStore(session.database)
        count = outbox.replay(Channel.CALLBACKS, None if everything else sorted(set(numbers)))
        which = "all" if everything else ", ".join(map(str, sorted(set(numbers))))
        record_command(session.database, "replay_message", target=which, details={"sent_again": count})
    missing = 0 if everything else len(set(numbers)) - count
    if as_json:
        print_json({"replayed": count, "not_found": missing})
    else:
        Console().print(f"{count} to be sent again" + (f", {missing} not found" if missing else ""), highlight=False)
    sys.exit(1 if missing else 0)
