"""``docs/command-line.md``, made from the commands themselves: ``python -m app.cli_page`` prints it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from app.cli import cli

_HEAD = """\
# The command line

This page is made by `make docs` from the commands themselves.

Every command reads its settings from the environment ([configuration](configuration.md)). Without `DATABASE_URL` it
works on an embedded PostgreSQL in `DATA_DIR` (`./geoworker-data`), which it starts and stops itself and shares with a
running `geoworker dev`. With `--json`, standard output is one JSON document and nothing else; progress goes to standard
error.

| exit code | means |
|---|---|
| 0 | done as asked |
| 1 | the job failed or was cancelled, the handler failed, or the doctor found a fault |
| 2 | the request cannot be met: one line on standard error says why |
| 130 | interrupted |
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections(cli, "geoworker")])


def _sections(group: click.Group, name: str) -> Iterator[str]:
    for command_name, command in sorted(group.commands.items()):
        full = f"{name} {command_name}"
        if isinstance(command, click.Group):
            yield from _sections(command, full)
        elif not command.hidden:
            yield _section(command, full)


def _section(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
    return f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    print(page(), end="")
