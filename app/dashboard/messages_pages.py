"""Dead letters, undelivered callbacks, and the record of actions."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from app.api.requests import query_int
from app.dashboard.live import Rendered
from app.dashboard.site import Site
from app.dashboard.templating import render

_ACTIONS = 50


def undelivered_view(site: Site, _: Mapping[str, str]) -> Rendered:
    """The undelivered messages, a part each: their forms are the page's own, found by number."""
    found = site.reads.undelivered()
    return Rendered(
        fragments={
            "summary": render("undelivered_summary.html", {"entries": found, "unsent": site.reads.unsent()}),
            **{f"entry-{entry['entry_id']}": render("undelivered_line.html", {"entry": entry}) for entry in found},
        },
        lists={"entries": [f"entry-{entry['entry_id']}" for entry in found]},
    )


class MessagePages:
    """``/callbacks``, ``/dead-letters`` and ``/actions``."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def callbacks(self, request: Request) -> Response:
        """Messages that were given up."""
        rendered = await run_in_threadpool(undelivered_view, self._site, {})
        return self._site.live_page(
            request, "callbacks.html", {"title": "Undelivered"}, rendered, view="callbacks", topic={}
        )

    async def dead_letters(self, request: Request) -> Response:
        """Dead letters by queue."""
        letters = self._site.dead_letters
        found = await run_in_threadpool(letters.list) if letters is not None else []
        context = {
            "title": "Dead letters",
            "has_queues": letters is not None,
            "queues": list(letters.desk.queues) if letters is not None else [],
            "letters": found,
        }
        return self._site.html(request, "dead_letters.html", context)

    async def actions(self, request: Request) -> Response:
        """Who did what and when."""
        before = query_int(request, "before", 0, low=0, high=10**11) or None
        found = await run_in_threadpool(self._site.application.actions.list_actions, before=before, limit=_ACTIONS)
        older = found[-1].action_id if len(found) == _ACTIONS else None
        return self._site.html(request, "actions.html", {"title": "Actions", "actions": found, "older": older})
