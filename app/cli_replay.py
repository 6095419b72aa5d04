"""``geoworker replay``: an ended job again, at one of three grains."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from app.cli_options import as_json, data_dir, find_job, settings_from
from app.cli_show import print_json
from app.recording import record_command
from app.session import open_session
from app.views import job_view


@click.command()
@click.argument("job")
@click.option("--failed", is_flag=True, help="Only what failed or was cancelled, each at its checkpoint (the default).")
@click.option("--from-stage", type=click.IntRange(min=1), metavar="N", help="Everything from stage N on.")
@click.option(
    "--from-checkpoint",
    type=click.IntRange(min=0),
    metavar="K",
    help="Tasks start again after phase K: what failed, or, of a completed job, the last stage that saved phase K.",
)
@data_dir
@as_json
def replay(
    job: str, failed: bool, from_stage: int | None, from_checkpoint: int | None, data_dir: Path | None, as_json: bool
) -> None:
    """Run an ended job again as a new run. JOB may be the start of an id."""
    if failed + (from_stage is not None) + (from_checkpoint is not None) > 1:
        raise click.UsageError("give one of --failed, --from-stage and --from-checkpoint")
    with open_session(settings_from(data_dir)) as session:
        record = session.machine.retry_job(
            find_job(session, job).job_id, from_stage=from_stage, from_checkpoint=from_checkpoint, submitted_by="cli"
        )
        grains = (("from_stage", from_stage), ("from_checkpoint", from_checkpoint))
        details = {"run": record.run, **{name: value for name, value in grains if value is not None}}
        record_command(session.database, "replay", job_id=record.replay_of, target=record.job_id, details=details)
        if as_json:
            print_json(job_view(record))
        else:
            Console().print(f"{record.job_id}  run {record.run} of {record.job_type}", highlight=False)
