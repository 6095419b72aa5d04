"""``geoworker config``: what a process would run with, and the page that describes every setting."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from app.cli_show import print_json
from app.configuration import Report, check
from app.settings import OrchestrationMode
from app.settings_catalogue import Process


@click.group()
def config() -> None:
    """Check settings, or describe them all."""


@config.command("check")
@click.option(
    "--role",
    type=click.Choice([str(process) for process in Process]),
    default=str(Process.WORKER),
    show_default=True,
    help="The process whose settings are checked.",
)
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in OrchestrationMode]),
    help="Check for that mode instead of the environment's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_command(role: str, mode: str | None, as_json: bool) -> None:
    """Print every setting, its source, and what is wrong; exits with 1 when the process would not start."""
    overrides: dict[str, Any] = {"docker_orchestration_mode": OrchestrationMode(mode)} if mode is not None else {}
    report = check(os.environ, Process(role), **overrides)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report, Console(highlight=False, soft_wrap=True))
    sys.exit(1 if report.faults else 0)


def _print(report: Report, console: Console) -> None:
    width = max((len(shown.name) for shown in report.settings), default=0)
    for shown in report.settings:
        note = "" if shown.counts else "  (makes no difference here)"
        line = f"{shown.name:<{width}}  {shown.source:<11}  {shown.value}{note}"
        console.print(line, markup=False, style=None if shown.counts else "dim")
    for warning in report.warnings:
        console.print(f"warn  {warning}", markup=False, style="yellow")
    for fault in report.faults:
        console.print(f"FAIL  {fault}", markup=False, style="red")
    where = f"{report.process} in {report.mode} mode" if report.mode is not None else str(report.process)
    verdict = f"{len(report.faults)} fault(s)" if report.faults else "would start"
    console.print(f"{where}: {verdict}, {len(report.warnings)} warning(s)", markup=False)


@config.command("docs")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page there; default: print it.",
)
def docs_command(output: Path | None) -> None:
    """Describe every setting as Markdown (`docs/configuration.md`)."""
    from app.settings_page import configuration_page

    page = configuration_page()
    if output is None:
        click.echo(page, nl=False)
    else:
        output.write_text(page, encoding="utf-8")
