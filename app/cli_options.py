"""What commands share: their options, the settings behind them, and finding a job by the start of its id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.session import Session
from app.settings import Settings
from core.errors import Fault, InvalidInput, JobNotFound
from core.records import JobQuery, JobRecord

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded PostgreSQL and outputs are kept (default: DATA_DIR or ./geoworker-data).",
)


def settings_from(directory: Path | None = None, **overrides: Any) -> Settings:
    """The environment with a command's options on top."""
    if directory is not None:
        overrides["data_dir"] = directory
    return Settings.from_env(**overrides)


def find_job(session: Session, prefix: str) -> JobRecord:
    """The job with that id, or with the one id that starts so.

    Raises:
        JobNotFound: when there is none.
        InvalidInput: when the start fits several.
    """
    job = session.store.get_job(prefix)
    if job is not None:
        return job
    found = session.store.list_jobs(JobQuery(id_prefix=prefix, limit=2)) if prefix else []
    if len(found) > 1:
        raise InvalidInput("job id", [Fault("JOB", "fits several jobs; give more of the id", prefix)])
    if not found:
        raise JobNotFound(prefix)
    return found[0]
