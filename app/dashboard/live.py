"""Live pages by server-sent events: one poller asks the store, whoever looks; clients get the parts that changed.

Each distinct view that somebody looks at is rendered once a round in a thread, however many clients look at it. A
round takes at most a fifth of the time: when the store is slow, rounds come less often. What a client has not taken
yet is replaced by what is newer, so that a slow client costs nothing.
Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from core.errors import GeoworkerError

logger = logging.getLogger(__name__)

MOST_CLIENTS = 100
_ROUND_SECONDS = 1.0
_SHARE = 4  # a round's work is followed by at least this many times its length without any
_LONGEST_PAUSE = 5.0
_QUIET_ROUNDS = 30  # after so many rounds without a change a view is looked at
_QUIET_STEP = 3  # in every third round only
_KEEPALIVE_SECONDS = 15.0
_LIFETIME_SECONDS = 3600.0  # then the client connects again and is authenticated again


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Parts of a page as HTML by name, and lists as the names of their parts in order."""

    fragments: Mapping[str, str]
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)


LiveView = Callable[[Mapping[str, str]], Rendered]
"""Renders a view from the parameters of its address. Blocking; raises GeoworkerError."""

Topic = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _Shown:
    """What a topic shows now: each part with the version at which it last changed."""

    version: int = 0
    parts: dict[str, tuple[int, str]] = field(default_factory=dict)
    lists: dict[str, tuple[int, Sequence[str]]] = field(default_factory=dict)
    trouble: str | None = None
    clients: int = 0
    quiet: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, rendered: Rendered) -> bool:
        """Take a new rendering; whether anything differs from the last."""
        number = self.version + 1
        before = (self.trouble, self.version)
        self.trouble = None
        for name, html in rendered.fragments.items():
            if name not in self.parts or self.parts[name][1] != html:
                self.parts[name] = (number, html)
                self.version = number
        for name, order in rendered.lists.items():
            if name not in self.lists or list(self.lists[name][1]) != list(order):
                self.lists[name] = (number, list(order))
                self.version = number
        kept = {one for order in rendered.lists.values() for one in order} | set(rendered.fragments)
        self.parts = {name: part for name, part in self.parts.items() if name in kept}
        return before != (self.trouble, self.version)

    def since(self, version: int) -> str:
        """What changed after a version, as the data of an event."""
        return json.dumps(
            {
                "fragments": {name: html for name, (number, html) in self.parts.items() if number > version},
                "lists": {name: order for name, (number, order) in self.lists.items() if number > version},
            },
            ensure_ascii=False,
        )


class TooManyClients(Exception):
    """As many pages are live as may be."""


class Hub:
    """The poller and its topics. All methods run on the event loop."""

    def __init__(
        self,
        *,
        most_clients: int = MOST_CLIENTS,
        round_seconds: float = _ROUND_SECONDS,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stopped = stopped
        self._most_clients = most_clients
        self._round_seconds = round_seconds
        self._topics: dict[Topic, _Shown] = {}
        self._views: dict[Topic, LiveView] = {}
        self._poller: asyncio.Task[None] | None = None
        self._epoch = secrets.token_hex(4)
        self._poked = asyncio.Event()
        self._closing = False
        self.rounds = 0
        self.rendered = 0

    @property
    def clients(self) -> int:
        """How many pages are live."""
        return sum(shown.clients for shown in self._topics.values())

    def subscribe(
        self, name: str, view: LiveView, parameters: Mapping[str, str], last_event_id: str | None
    ) -> AsyncIterator[bytes]:
        """The stream of one client, from what it has seen on.

        Raises:
            TooManyClients: when there are as many as may be.
        """
        if self.clients >= self._most_clients:
            raise TooManyClients(f"{self._most_clients} pages are live already")
        topic = (name, tuple(sorted(parameters.items())))
        return self._stream(topic, view, self._seen(last_event_id))

    def _enter(self, topic: Topic, view: LiveView) -> _Shown:
        shown = self._topics.setdefault(topic, _Shown())
        shown.clients += 1
        self._views[topic] = view
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="dashboard poller")
        return shown

    def _seen(self, last_event_id: str | None) -> int:
        epoch, _, version = (last_event_id or "").partition("-")
        return int(version) if epoch == self._epoch and version.isdigit() and len(version) < 12 else 0

    async def _stream(self, topic: Topic, view: LiveView, seen: int) -> AsyncIterator[bytes]:
        shown = self._enter(topic, view)
        ends = time.monotonic() + _LIFETIME_SECONDS
        told: str | None = None
        try:
            yield f"retry: {1000 + secrets.randbelow(3000)}\n\n".encode()  # apart, so that they do not return together
            if seen > shown.version:
                seen = 0
            while not self._closing and time.monotonic() < ends:
                if shown.trouble != told:
                    told = shown.trouble
                    yield f"event: trouble\ndata: {json.dumps(told)}\n\n".encode()
                    continue
                if shown.version > seen:
                    data, seen = shown.since(seen), shown.version
                    yield f"id: {self._epoch}-{seen}\nevent: parts\ndata: {data}\n\n".encode()
                    continue  # more may have changed while the client took this
                try:
                    await asyncio.wait_for(shown.changed.wait(), _KEEPALIVE_SECONDS)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            shown.clients -= 1
            if shown.clients == 0:
                self._topics.pop(topic, None)
                self._views.pop(topic, None)

    async def _poll(self) -> None:
        while self._topics and not self._closing:
            began = time.monotonic()
            for topic, shown in list(self._topics.items()):
                await self._look(topic, shown)
            self.rounds += 1
            if self._stopped():
                self.close()
                return
            took = time.monotonic() - began
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), self._pause(took))
                for shown in self._topics.values():
                    shown.quiet = 0
            self._poked.clear()

    def _pause(self, took: float) -> float:
        return min(max(self._round_seconds - took, took * _SHARE), _LONGEST_PAUSE)

    async def _look(self, topic: Topic, shown: _Shown) -> None:
        """Render a topic again, unless it has been quiet for long and was looked at a moment ago."""
        if shown.quiet > _QUIET_ROUNDS and self.rounds % _QUIET_STEP:
            return
        if await self._refresh(topic, shown):
            shown.quiet = 0
            shown.changed.set()
            shown.changed = asyncio.Event()
        else:
            shown.quiet += 1

    def poke(self) -> None:
        """Look at once: somebody has just done something."""
        self._poked.set()

    async def _refresh(self, topic: Topic, shown: _Shown) -> bool:
        view = self._views.get(topic)
        if view is None:
            return False
        try:
            rendered = await run_in_threadpool(view, dict(topic[1]))
        except GeoworkerError as error:
            return self._in_trouble(shown, str(error))
        except Exception:  # one view that fails must not end the others
            logger.exception("a live view failed", extra={"action": "dashboard.view_failed", "view": topic[0]})
            return self._in_trouble(shown, "this page cannot be kept up to date; see the log")
        self.rendered += 1
        return shown.take(rendered)

    @staticmethod
    def _in_trouble(shown: _Shown, trouble: str) -> bool:
        before, shown.trouble = shown.trouble, trouble
        return before != trouble

    def close(self) -> None:
        """End every stream, and the poller after its round: the process is about to stop."""
        self._closing = True
        for shown in self._topics.values():
            shown.changed.set()
