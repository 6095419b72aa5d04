"""The dashboard with 100,000 jobs and 10,000 tasks: load time and weight in Chromium, and the cost of being live.

``python -m tests.benchmarks.dashboard [jobs [tasks]]``
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from playwright.sync_api import sync_playwright

from app.composition import compose
from app.dashboard.job_page import job_view
from app.dashboard.jobs_pages import list_view, overview_view
from app.dashboard.site import Site
from app.logs import configure_logging
from app.role import Role
from app.session import database_address
from app.settings import Settings
from infrastructure.postgres.migrations import migrate
from tests.browser import scenes
from tests.browser.conftest import FLAGS, chromium_path
from tests.browser.serving import serve

ROUNDS = 7


def main(jobs: int, tasks: int) -> None:
    with tempfile.TemporaryDirectory() as data:
        settings = Settings.from_env({}, data_dir=data, worker_id="here:1", log_level="ERROR")
        configure_logging(settings)
        with database_address(settings) as address:
            application = compose(settings, Role.EMBEDDED, database_url=address)
            migrate(application.database)
            began = time.perf_counter()
            scenes.many_jobs(application.database, jobs)
            large = scenes.large_job(application.database, "benchmark", tasks)
            application.database.run(lambda connection: connection.execute("ANALYZE"))
            print(f"{jobs} jobs and {tasks} tasks written in {time.perf_counter() - began:.1f} s")
            site = Site.of(application)
            try:
                cost("a round of the overview", partial(overview_view, site, {}))
                cost("a round of the list", partial(list_view, site, {}))
                cost(
                    "a round of a filtered list",
                    partial(list_view, site, {"status": "cancelled", "type": "mosaic_docker"}),
                )
                cost("a round of the job", partial(job_view, site, {"job_id": large}))
                with serve(application) as served, sync_playwright() as playwright:
                    browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
                    for path in ("/", "/jobs", "/jobs?status=cancelled&period=month", f"/jobs/{large}", "/system"):
                        load(browser, served.address, path)
                    browser.close()
            finally:
                application.lifecycle.drain()


def cost(name: str, render: Callable[[], Any]) -> None:
    """Median wall and CPU time of one round."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.thread_time()
        render()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.thread_time() - cpu)
    print(f"{name:<28} {statistics.median(walls) * 1e3:7.1f} ms, of it {statistics.median(cpus) * 1e3:6.1f} ms our CPU")


def load(browser: Any, address: str, path: str) -> None:
    """Median time to the load event with nothing cached, and bytes over the wire."""
    times, weights = [], []
    for _ in range(ROUNDS):
        page = browser.new_context().new_page()
        weight = [0]

        def add(answer: Any, weight: list[int] = weight) -> None:
            if "/live/" not in answer.url:
                sizes = answer.request.sizes()
                weight[0] += sizes["responseBodySize"] + sizes["responseHeadersSize"]

        page.on("requestfinished", lambda request, add=add: add(request.response()))
        page.goto(address + path, wait_until="load")
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        page.wait_for_timeout(100)
        weights.append(weight[0])
        page.context.close()
    shown = path if len(path) < 40 else path[:20] + "…"
    print(f"{shown:<40} loads in {statistics.median(times):6.0f} ms, {statistics.median(weights) / 1e3:6.1f} kB in all")


if __name__ == "__main__":
    main(*(int(text) for text in [*sys.argv[1:3], *["100000", "10000"][len(sys.argv) - 1 :]]))
