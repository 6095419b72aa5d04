"""The command line, ``geoworker``: one clear line for a user's mistake, data as JSON with ``--json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from app.cli_callbacks import callbacks
from app.cli_config import config
from app.cli_dlq import dlq
from app.cli_options import as_json, data_dir, find_job, settings_from
from app.cli_rehearse import rehearse_command
from app.cli_replay import replay
from app.cli_show import jobs_table, print_job, print_json, watch
from app.process_report import version
from app.recording import record_command
from app.role import Role
from app.session import open_session
from app.settings import LogFormat, OrchestrationMode
from app.views import job_status_view, job_view
from core.errors import Fault, GeoworkerError, InvalidInput
from core.records import JobQuery
from core.states import JobStatus

if TYPE_CHECKING:
    from testing.emulator import ServiceBusEmulator

_FAILED = (JobStatus.FAILED, JobStatus.CANCELLED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version(), prog_name="geoworker")
def cli() -> None:
    """A worker for long geospatial tasks: queue-polled, HTTP-triggered or embedded."""


cli.add_command(config)
cli.add_command(replay)
cli.add_command(callbacks)
cli.add_command(rehearse_command)
cli.add_command(dlq)


def parse_parameters(text: str | None, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parameters from a JSON object (``@file`` reads one) and ``name=value`` pairs, values as JSON where they are.

    Raises:
        InvalidInput: naming what cannot be read.
    """
    parameters: dict[str, Any] = {}
    if text is not None:
        try:
            parsed = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
        except (ValueError, OSError) as error:
            raise InvalidInput("--params", [Fault("--params", f"is no JSON object: {error}", text)]) from error
        if not isinstance(parsed, dict):
            raise InvalidInput("--params", [Fault("--params", "must be a JSON object", text)])
        parameters.update(parsed)
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InvalidInput("parameters", [Fault(pair, "must look like name=value", pair)])
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


@cli.command()
@click.argument("job_type")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--params", help="Parameters as a JSON object, or @FILE.")
@click.option("--force", is_flag=True, help="Run again although the same job is known.")
@click.option("--watch", "follow", is_flag=True, help="Follow the job to its end.")
@data_dir
@as_json
def submit(
    job_type: str,
    pairs: tuple[str, ...],
    params: str | None,
    force: bool,
    follow: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Submit a job. A running dev server, orchestrator or worker does the work."""
    with open_session(settings_from(data_dir)) as session:
        submitted = session.machine.submit_job(
            job_type, parse_parameters(params, pairs), rerun=force, submitted_by="cli"
        )
        console = Console(stderr=follow and as_json)
        if follow:
            _end(watch(session.store, submitted.job.job_id, console), console, as_json)
        if as_json:
            print_json({**job_view(submitted.job), "created": submitted.created})
        else:
            known = "submitted" if submitted.created else f"known already, {submitted.job.status}"
            console.print(f"{submitted.job.job_id}  {known}", highlight=False)


@cli.command()
@click.argument("job")
@data_dir
@as_json
def status(job: str, data_dir: Path | None, as_json: bool) -> None:
    """Show a job: stages, progress, errors, results. JOB may be the start of an id."""
    with open_session(settings_from(data_dir)) as session:
        view = job_status_view(session.store, find_job(session, job))
        if as_json:
            print_json(view)
        else:
            print_job(view, Console())


@cli.command("watch")
@click.argument("job")
@data_dir
@as_json
def watch_command(job: str, data_dir: Path | None, as_json: bool) -> None:
    """Follow a job to its end; exits with 1 when it failed or was cancelled."""
    with open_session(settings_from(data_dir)) as session:
        console = Console(stderr=as_json)
        _end(watch(session.store, find_job(session, job).job_id, console), console, as_json)


def _end(view: Mapping[str, Any], console: Console, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        print_job(view, console)
    sys.exit(1 if view["status"] in _FAILED else 0)


@cli.command()
@click.option(
    "--status", "status_", type=click.Choice([str(status) for status in JobStatus]), help="Only jobs of that status."
)
@click.option("--type", "job_type", help="Only jobs of that type.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@data_dir
@as_json
def jobs(status_: str | None, job_type: str | None, limit: int, data_dir: Path | None, as_json: bool) -> None:
    """List jobs, newest first."""
    with open_session(settings_from(data_dir)) as session:
        wanted = JobStatus(status_) if status_ is not None else None
        found = session.store.list_jobs(JobQuery(status=wanted, job_type=job_type, limit=limit))
        views = [job_view(job) for job in found]
        if as_json:
            print_json(views)
        else:
            Console().print(jobs_table(views) if views else "no jobs")


@cli.command()
@click.argument("job")
@data_dir
@as_json
def cancel(job: str, data_dir: Path | None, as_json: bool) -> None:
    """Cancel a job: waiting tasks never start, running ones are told to stop."""
    with open_session(settings_from(data_dir)) as session:
        record = session.machine.cancel_job(find_job(session, job).job_id, reason="cancelled on the command line")
        record_command(session.database, "cancel", job_id=record.job_id)
        _say(job_view(record), f"{record.job_id}  {record.status}", as_json)


@cli.command()
@click.argument("job")
@click.option("--from-stage", type=click.IntRange(min=1), help="Run again from that stage, not just what failed.")
@data_dir
@as_json
def retry(job: str, from_stage: int | None, data_dir: Path | None, as_json: bool) -> None:
    """Run an ended job again: its failed tasks at their checkpoints, or everything from a stage on."""
    with open_session(settings_from(data_dir)) as session:
        record = session.machine.retry_job(find_job(session, job).job_id, from_stage=from_stage, submitted_by="cli")
        record_command(session.database, "replay", job_id=record.replay_of, target=record.job_id)
        _say(job_view(record), f"{record.job_id}  run {record.run} of {record.job_type}", as_json)


def _say(view: Mapping[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        Console().print(line, highlight=False)


@cli.command()
@data_dir
@as_json
def migrate(data_dir: Path | None, as_json: bool) -> None:
    """Apply what the database schema lacks. Safe to run from several processes at once."""
    from infrastructure.postgres.migrations import migrate as apply

    with open_session(settings_from(data_dir), apply_migrations=False) as session:
        applied = list(apply(session.database))
        _say({"applied": applied}, f"applied {', '.join(applied)}" if applied else "nothing to apply", as_json)


@cli.command("run-handler")
@click.argument("task_type")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--params", help="Parameters as a JSON object, or @FILE.")
@click.option("--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Where outputs go.")
def run_handler(task_type: str, pairs: tuple[str, ...], params: str | None, output_dir: Path | None) -> None:
    """Run one handler here and now, with no database and no queue; prints its result as JSON."""
    from app.run_handler import run_one

    settings = settings_from()
    succeeded, answer = run_one(settings, task_type, parse_parameters(params, pairs), output_dir)
    print_json(answer)
    sys.exit(0 if succeeded else 1)


@cli.command()
@data_dir
@as_json
def doctor(data_dir: Path | None, as_json: bool) -> None:
    """Check settings, database, GDAL, disk and credentials, and say what to do."""
    from app.doctor import Verdict, diagnose

    findings = diagnose(settings_from(data_dir))
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        console = Console()
        for finding in findings:
            mark = {"ok": "[green]ok  [/]", "warning": "[yellow]warn[/]", "fault": "[red]FAIL[/]"}[finding.verdict]
            console.print(f"{mark} {finding.subject:<12}", end="")
            console.print(finding.text, markup=False, highlight=False)
            if finding.advice:
                console.print(f"                  → {finding.advice}", markup=False, highlight=False)
    sys.exit(1 if any(finding.verdict is Verdict.FAULT for finding in findings) else 0)


@cli.command()
@click.option("--force", is_flag=True, help="Run the job again although it is known.")
@click.option("--source", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A raster of your own.")
@data_dir
@as_json
def demo(force: bool, source: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Turn a real raster into a validated COG with a STAC item and a preview, on an embedded PostgreSQL."""
    from app.processes import run_demo

    settings = settings_from(
        data_dir,
        host="127.0.0.1",  # it serves nobody
        docker_orchestration_mode=OrchestrationMode.IN_MEMORY,
        log_level="WARNING",
        log_format=LogFormat.CONSOLE,
    )
    view = run_demo(settings, Console(stderr=as_json), source=source, force=force)
    if as_json:
        print_json(view)
    sys.exit(1 if view["status"] in _FAILED else 0)


@cli.command()
@click.option("--host", help="Address to listen on (default: HOST or 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default: PORT or 8080).")
@data_dir
def dev(host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Serve everything in one process: API, embedded PostgreSQL, queues in memory, workers."""
    from app.processes import run_dev

    overrides = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    run_dev(settings_from(data_dir, docker_orchestration_mode=OrchestrationMode.IN_MEMORY, **overrides), Console())


@cli.command()
@click.option("--host", help="Address to listen on (default: HOST or 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default: PORT or 8080).")
def worker(host: str | None, port: int | None) -> None:
    """Run long tasks: polls the queue, or takes POST /task/start, as DOCKER_ORCHESTRATION_MODE says."""
    _serve(Role.WORKER, host, port)


@cli.command()
@click.option("--host", help="Address to listen on (default: HOST or 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default: PORT or 8080).")
def orchestrator(host: str | None, port: int | None) -> None:
    """Take jobs, plan their stages and run short tasks: the Function App's parts as a process."""
    _serve(Role.ORCHESTRATOR, host, port)


@cli.command()
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A Config.json.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=5672, show_default=True, help="Port to listen on.")
def emulator(config: Path | None, host: str, port: int) -> None:
    """Run the Service Bus emulator for local development; prints its connection string."""
    from testing.emulator import run

    def ready(started: ServiceBusEmulator) -> None:
        Console().print(started.connection_string, highlight=False, soft_wrap=True)

    run(config, host, port, on_ready=ready)


def _serve(role: Role, host: str | None, port: int | None) -> None:
    from app.processes import run_process

    overrides: dict[str, Any] = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    run_process(settings_from(None, **overrides), role, Console())


def main() -> None:
    """Run the command line; errors of ours are one line and exit code 2."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except GeoworkerError as error:
        click.echo(f"geoworker: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
