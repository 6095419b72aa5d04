"""``geoworker rehearse``: orchestrator and worker as two processes on this machine."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console

from app.cli_options import as_json, data_dir, settings_from
from app.cli_show import print_job, print_json
from app.rehearsal import Rehearsal, rehearse
from app.settings import OrchestrationMode
from core.states import TERMINAL_JOB_STATUSES, JobStatus

_POLL_SECONDS = 0.2


@click.command("rehearse")
@click.option(
    "--mode",
    type=click.Choice([OrchestrationMode.HTTP_TRIGGER.value, OrchestrationMode.SERVICE_BUS.value]),
    default=OrchestrationMode.HTTP_TRIGGER.value,
    show_default=True,
    help="How the tasks reach the worker.",
)
@click.option("--once", is_flag=True, help="Run one job on a sample raster, show it, and stop.")
@click.option("--job", default="process_raster_triggered", show_default=True, help="The job that --once runs.")
@data_dir
@as_json
def rehearse_command(mode: str, once: bool, job: str, data_dir: Path | None, as_json: bool) -> None:
    """Start an orchestrator and a worker over real sockets and one PostgreSQL, and say how to call them."""
    console = Console(stderr=as_json)
    with rehearse(settings_from(data_dir), OrchestrationMode(mode)) as pair:
        _explain(pair, console)
        if once:
            view = _run(pair, job)
            if as_json:
                print_json(view)
            else:
                print_job(view, console)
            if view["status"] != JobStatus.COMPLETED:
                sys.exit(1)
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def _explain(pair: Rehearsal, console: Console) -> None:
    console.print(f"orchestrator {pair.orchestrator_url}, worker {pair.worker_url} ({pair.mode})", highlight=False)
    console.print(f"logs in {pair.logs}; Ctrl-C stops both", highlight=False)
    lines = [
        f"export KEY={pair.api_key}",
        f"curl -X POST {pair.orchestrator_url}/api/jobs/submit/hello_world_triggered \\",
        "     -H \"x-api-key: $KEY\" -H 'content-type: application/json' -d '{\"n\": 3}'",
        f'curl -H "x-api-key: $KEY" {pair.orchestrator_url}/api/jobs',
    ]
    if pair.mode is OrchestrationMode.HTTP_TRIGGER:
        lines += [
            f"curl -i -X POST {pair.worker_url}/task/start \\",
            "     -H \"x-api-key: $KEY\" -H 'content-type: application/json' \\",
            '     -d \'{"task_id": "mine-1", "task_type": "hello_world_greeting", "params": {"message": "Hi"}}\'',
            f'curl -i -H "x-api-key: $KEY" {pair.worker_url}/task/mine-1',
        ]
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _run(pair: Rehearsal, job: str) -> dict[str, Any]:
    from services.raster import sample_raster

    parameters = {} if job.startswith("hello_world") else {"source_url": str(sample_raster().resolve())}
    with httpx.Client(base_url=pair.orchestrator_url, headers={"x-api-key": pair.api_key}, timeout=30) as client:
        submitted = client.post(f"/api/jobs/submit/{job}", params={"force": "true"}, json=parameters)
        if submitted.is_error:
            raise click.ClickException(submitted.json()["detail"])
        while True:
            view: dict[str, Any] = client.get(submitted.json()["status_url"]).raise_for_status().json()
            if view["status"] in TERMINAL_JOB_STATUSES:
                return view
            time.sleep(_POLL_SECONDS)
