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
    root = click.Context(cli, info_name="geoworker", terminal_width=100, **cli.context_settings)
    return "\n".join([_HEAD, *_sections(cli, root)])


def _sections(group: click.Group, parent: click.Context) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, parent=parent, info_name=name)
        if isinstance(command, click.Group):
            yield from _sections(command, context)
        elif not command.hidden:
            yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    print(page(), end="")
