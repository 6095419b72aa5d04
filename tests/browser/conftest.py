"""A real Chromium on the dashboard of a real embedded process. Skipped without a Chromium, except in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.composition import Application, compose
from app.role import Role
from app.settings import Settings
from tests.browser.serving import Served, serve

sync_api = pytest.importorskip("playwright.sync_api", reason="the development extra is not installed")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 30_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium_path() -> str | None:
    """The machine's Chromium, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")  # its event loop runs in the tests' thread: nobody else could run one there meanwhile
def browser() -> Iterator[Any]:
    path = chromium_path()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: apt-get install chromium")
        pytest.skip("no Chromium on this machine")
    sync_api.expect.set_options(timeout=30_000)  # milliseconds; other tests run beside these
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def application(
    postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Application]:
    """An embedded process with everything in it."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE browser TEMPLATE {template_database}".encode())
    settings = Settings.from_env(
        {},
        data_dir=tmp_path_factory.mktemp("browser"),
        worker_id="here:1",
        retry_base_seconds=0.05,
        retry_cap_seconds=0.2,
        sweep_seconds=0.5,
        shutdown_grace_seconds=3,
        callback_allowed_hosts=("127.0.0.1",),
        allow_private_addresses=True,
        callback_secrets=("whsec_c2VjcmV0LW9mLXNvbWUtbGVuZ3Ro",),
    )
    made = compose(settings, Role.EMBEDDED, database_url=postgres_server.replace("/postgres?", "/browser?"))
    made.lifecycle.start()
    yield made
    made.lifecycle.drain()


@pytest.fixture(scope="package")
def site(application: Application) -> Iterator[Served]:
    """The dashboard, served on loopback."""
    with serve(application) as served:
        yield served


@pytest.fixture
def make_page(browser: Any, site: Served) -> Iterator[Callable[..., Any]]:
    """Opens pages; at the end no console error and no request to another host may have been seen."""
    contexts: list[Any] = []
    faults: list[str] = []

    def note_request(request: Any) -> None:
        if urlsplit(request.url).scheme != "data" and not request.url.startswith(site.address):
            faults.append(f"a request left the host: {request.url}")

    def make(**options: Any) -> Any:
        context = browser.new_context(base_url=site.address, **{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", note_request)
        page.on("pageerror", lambda error: faults.append(f"a script failed: {error}"))
        page.on("console", lambda told: faults.append(f"console: {told.text}") if told.type == "error" else None)
        page.expected_faults = faults
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(make_page: Callable[..., Any]) -> Any:
    """A page at desk width, in light."""
    return make_page()
