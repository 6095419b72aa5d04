"""The state of the system: processes, what they run, queues, sweeper and pool; two versions at once stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from app.dashboard.live import Rendered
from app.dashboard.site import Site
from app.dashboard.templating import render
from infrastructure.postgres.worker_store import WorkerRecord

_SILENT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The processes in short: how many are there, how many went silent without saying so, and in which versions."""

    alive: Sequence[WorkerRecord]
    silent: Sequence[WorkerRecord]
    stopped: Sequence[WorkerRecord]

    @property
    def versions(self) -> Sequence[str]:
        """The versions that run now; more than one means that an upgrade is under way or stuck."""
        return sorted({worker.version for worker in self.alive})


def fleet(site: Site) -> Fleet:
    """The processes that the store knows."""
    alive, silent, stopped = [], [], []
    for worker in site.application.worker_store.list_workers():
        if worker.state == "stopped":
            stopped.append(worker)
        elif worker.age.total_seconds() > _SILENT_SECONDS:
            silent.append(worker)
        else:
            alive.append(worker)
    return Fleet(alive=alive, silent=silent, stopped=stopped)


def system_view(site: Site, _: Mapping[str, str]) -> Rendered:
    """The page's parts."""
    application = site.application
    processes = fleet(site)
    running = site.reads.running()
    by_owner: dict[str, list[Mapping[str, Any]]] = {}
    for task in running:
        by_owner.setdefault(task["lease_owner"], []).append(task)
    known = {worker.worker_id for worker in (*processes.alive, *processes.silent)}
    letters = _dead_letter_counts(site)
    return Rendered(
        fragments={
            "notices": render("system_notices.html", {"fleet": processes}),
            "workers": render(
                "system_workers.html",
                {
                    "fleet": processes,
                    "by_owner": by_owner,
                    "strangers": {owner: tasks for owner, tasks in by_owner.items() if owner not in known},
                    "lease": application.settings.lease_seconds,
                },
            ),
            "queues": render(
                "system_queues.html",
                {
                    "waiting": site.reads.waiting(),
                    "unsent": site.reads.unsent(),
                    "undelivered": site.reads.undelivered_count(),
                    "letters": letters,
                    "depths": {queue: depth.latest() for queue, depth in site.depths.items()},
                },
            ),
            "sweeper": render(
                "system_sweeper.html",
                {"sweeper": application.sweep_store.status(), "every": application.settings.sweep_seconds},
            ),
        }
    )


def _dead_letter_counts(site: Site) -> Mapping[str, int] | None:
    """Dead letters by queue as the queues' loops last counted them, or None where there are no queues."""
    letters = site.dead_letters
    return letters.counts() if letters is not None else None


class SystemPage:
    """``/system``."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def show(self, request: Request) -> Response:
        """The page."""
        rendered = await run_in_threadpool(system_view, self._site, {})
        return self._site.live_page(request, "system.html", {"title": "System"}, rendered, view="system", topic={})
