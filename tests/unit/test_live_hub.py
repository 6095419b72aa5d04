"""The poller behind live pages: one rendering for all, only what changed, bounded clients, and the way back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from app.dashboard.live import Hub, Rendered, TooManyClients
from core.errors import StoreUnavailable

FAST = 0.01


class View:
    """A view whose parts a test changes."""

    def __init__(self, **parts: str) -> None:
        self.parts = dict(parts)
        self.order: list[str] = []
        self.calls = 0
        self.fault: Exception | None = None

    def __call__(self, _: Mapping[str, str]) -> Rendered:
        self.calls += 1
        if self.fault is not None:
            raise self.fault
        return Rendered(fragments=dict(self.parts), lists={"list": list(self.order)} if self.order else {})


async def events(stream: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, str, Any]]:
    """(event, id, data) of a stream."""
    async for chunk in stream:
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if ": " in line and line[0] != ":")
        if "event" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])


async def next_parts(told: AsyncIterator[tuple[str, str, Any]]) -> tuple[str, Any]:
    async with asyncio.timeout(30):
        async for event, number, data in told:
            if event == "parts":
                return number, data
    raise AssertionError("the stream ended")


def test_all_clients_of_a_view_share_one_rendering_and_get_what_changed() -> None:
    async def run() -> None:
        hub, view = Hub(round_seconds=FAST), View(a="1", b="2")
        streams = [hub.subscribe("v", view, {}, None) for _ in range(5)]
        told = [events(stream) for stream in streams]
        for one in told:
            _, data = await next_parts(one)
            assert data == {"fragments": {"a": "1", "b": "2"}, "lists": {}}
        assert hub.clients == 5
        before = view.calls
        view.parts["b"] = "3"
        for one in told:
            _, data = await next_parts(one)
            assert data["fragments"] == {"b": "3"}
        assert view.calls - before < 20  # rounds, not clients
        for stream in streams:
            await stream.aclose()
        assert hub.clients == 0
        await asyncio.sleep(FAST * 3)
        calls = view.calls
        await asyncio.sleep(FAST * 5)
        assert view.calls == calls  # nobody looks, nobody asks

    asyncio.run(run())


def test_a_client_that_comes_back_gets_only_what_it_missed() -> None:
    async def run() -> None:
        hub, view = Hub(round_seconds=FAST), View(a="1", b="2")
        keeper = events(hub.subscribe("v", view, {}, None))
        number, _ = await next_parts(keeper)
        view.parts["a"] = "4"
        await next_parts(keeper)
        _, data = await next_parts(events(hub.subscribe("v", view, {}, number)))
        assert data["fragments"] == {"a": "4"}
        for unknown in ("elsewhere-1", "x", f"{number.split('-')[0]}-999"):
            _, data = await next_parts(events(hub.subscribe("v", view, {}, unknown)))
            assert data["fragments"] == {"a": "4", "b": "2"}
        hub.close()

    asyncio.run(run())


def test_parts_that_go_are_forgotten_and_lists_keep_their_order() -> None:
    async def run() -> None:
        hub, view = Hub(round_seconds=FAST), View(one="1", two="2")
        view.order = ["two", "one"]
        told = events(hub.subscribe("v", view, {}, None))
        _, data = await next_parts(told)
        assert data["lists"] == {"list": ["two", "one"]}
        del view.parts["two"]
        view.order = ["one"]
        _, data = await next_parts(told)
        assert data == {"fragments": {}, "lists": {"list": ["one"]}}
        view.parts["two"] = "2"
        view.order = ["one", "two"]
        _, data = await next_parts(told)
        assert data == {"fragments": {"two": "2"}, "lists": {"list": ["one", "two"]}}
        hub.close()

    asyncio.run(run())


def test_clients_are_bounded_and_a_closed_hub_ends_them() -> None:
    async def run() -> None:
        hub, view = Hub(round_seconds=FAST, most_clients=2), View(a="1")
        told = [events(hub.subscribe("v", view, {"n": str(n)}, None)) for n in range(2)]
        for one in told:
            await next_parts(one)
        with pytest.raises(TooManyClients):
            hub.subscribe("v", view, {}, None)
        hub.close()
        async with asyncio.timeout(30):
            for one in told:
                assert [event async for event in one] == []

    asyncio.run(run())


def test_trouble_is_told_once_and_taken_back() -> None:
    async def run() -> None:
        hub, view = Hub(round_seconds=FAST), View(a="1")
        told = events(hub.subscribe("v", view, {}, None))
        await next_parts(told)
        view.fault = StoreUnavailable("the database went away")
        async with asyncio.timeout(30):
            assert await anext(told) == ("trouble", "", "the database went away")
            view.fault = None
            assert await anext(told) == ("trouble", "", None)
        view.fault = RuntimeError("a secret")
        async with asyncio.timeout(30):
            event, _, text = await anext(told)
        assert event == "trouble"
        assert "secret" not in text
        hub.close()

    asyncio.run(run())


def test_a_quiet_view_is_looked_at_less_until_somebody_acts() -> None:
    async def run() -> None:
        hub, view = Hub(round_seconds=FAST), View(a="1")
        told = events(hub.subscribe("v", view, {}, None))
        await next_parts(told)
        while hub.rounds < 60:
            await asyncio.sleep(FAST)
        assert view.calls < 50
        view.parts["a"] = "2"
        hub.poke()
        await next_parts(told)
        hub.close()

    asyncio.run(run())
