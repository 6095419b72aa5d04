"""Pictures of every page for the documentation: ``python -m tests.browser.screenshots [directory]``.

Each page in light, dark and at a phone's width, on a process with jobs in every state, quantised to small PNGs.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from app.composition import Application, compose
from app.logs import configure_logging
from app.role import Role
from app.session import database_address
from app.settings import Settings
from core.records import TaskQuery
from core.states import TERMINAL_JOB_STATUSES
from infrastructure.postgres.database import Database
from infrastructure.postgres.migrations import migrate
from services.raster import sample_raster
from tests.browser import scenes
from tests.browser.conftest import FLAGS, chromium_path
from tests.browser.serving import serve

MOST_HEIGHT = 1250
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


def ended(application: Application, job_type: str, parameters: dict[str, Any]) -> str:
    """Run a job to its end."""
    job_id = application.machine.submit_job(job_type, parameters, submitted_by="api-key:1/Ana").job.job_id
    while (job := application.store.get_job(job_id)) is None or job.status not in TERMINAL_JOB_STATUSES:
        time.sleep(0.1)
    return job_id


def pages(application: Application) -> dict[str, str]:
    """The address of each picture."""
    database = application.database
    scenes.many_jobs(database, 400)
    large = scenes.large_job(database, "europe", 10_000)
    every = scenes.every_state(database)
    raster = ended(
        application, "process_raster_docker", {"source_url": str(sample_raster()), "target_crs": "EPSG:4326"}
    )
    grid = ended(application, "bootstrap_h3_docker", {"area": "RWA", "target_resolutions": [3, 4, 5]})
    failed = application.store.list_tasks(TaskQuery(job_id=every, offset=6, limit=1))[0]
    return {
        "overview": "/",
        "jobs": "/jobs?period=week",
        "job": f"/jobs/{every}",
        "job-10000-tasks": f"/jobs/{large}?state=failed",
        "task": f"/jobs/{every}/tasks/{failed.task_id}",
        "raster": f"/jobs/{raster}",
        "h3": f"/jobs/{grid}",
        "submit": "/submit/process_raster_docker",
        "undelivered": "/callbacks",
        "dead-letters": "/dead-letters",
        "system": "/system",
        "actions": "/actions",
    }


def small(png: bytes) -> bytes:
    """The picture with at most 72 colours."""
    image = (
        Image.open(io.BytesIO(png))
        .convert("RGB")
        .quantize(72, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        settings = Settings.from_env({}, data_dir=data, worker_id="here:1", log_level="ERROR")
        configure_logging(settings)
        with database_address(settings) as address:
            application = compose(settings, Role.EMBEDDED, database_url=address)
            migrate(application.database)
            application.lifecycle.start()
            try:
                with serve(application) as served, sync_playwright() as playwright:
                    take(playwright, served.address, pages(application), directory, application.database)
            finally:
                application.lifecycle.drain()


def take(playwright: Any, address: str, wanted: dict[str, str], directory: Path, database: Database) -> None:
    """Take every picture."""
    browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
    for look, options in LOOKS.items():
        context = browser.new_context(base_url=address, reduced_motion="reduce", **options)
        page = context.new_page()
        for name, path in wanted.items():
            scenes.other_worker(database)
            page.goto(path)
            page.wait_for_selector("h1")
            page.wait_for_timeout(400)
            full = page.evaluate("document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": options["viewport"]["width"], "height": min(full, MOST_HEIGHT)}
            (directory / f"{name}-{look}.png").write_bytes(small(page.screenshot(full_page=True, clip=clip)))
        context.close()
    browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screenshots"))
