"""Who may see and do what on the dashboard: sessions, forms, other sites, and a worker that only shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from httpx import Response
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import Application, compose
from app.dashboard.session import COOKIE, LIFETIME_SECONDS, Session, Sessions
from app.dashboard.sign_in import own_path
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.states import JobStatus
from infrastructure.postgres.worker_store import WorkerRecord
from tests.process_support import wait_until

KEY = "first-key-0123456789"
HTML = {"Accept": "text/html"}
HERE = "http://127.0.0.1:8080"


@pytest.fixture
def idle(settings: Settings, database_url: str) -> Iterator[Application]:
    """A process with keys whose loops do not run."""
    keys = (SecretStr(KEY), SecretStr("second-key-0123456789"))
    application = compose(settings.model_copy(update={"api_keys": keys}), Role.EMBEDDED, database_url=database_url)
    yield application
    application.lifecycle.drain()


@pytest.fixture
def browser(idle: Application) -> Iterator[TestClient]:
    with TestClient(create_app(idle, manage_lifecycle=False), base_url=HERE, follow_redirects=False) as client:
        yield client


def token_of(page: Response) -> str:
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page.text)
    assert found is not None
    return found[1]


def sign_in(client: TestClient, key: str = KEY, person: str = "Ana") -> Response:
    page = client.get("/sign-in?next=/jobs", headers=HTML)
    form = {"csrf_token": token_of(page), "api_key": key, "person": person, "next": "/jobs"}
    return client.post("/sign-in", data=form)


def test_pages_need_credentials_and_lead_to_the_sign_in_page(browser: TestClient) -> None:
    page = browser.get("/jobs?status=failed", headers=HTML)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=%2Fjobs%3Fstatus%3Dfailed")
    assert browser.get("/jobs").status_code == 401
    assert browser.get("/api/jobs", headers=HTML).status_code == 401
    assert browser.get("/live/jobs", headers={"Accept": "text/event-stream"}).status_code == 401
    assert browser.get("/sign-in", headers=HTML).status_code == 200
    assert browser.get("/static/x/dashboard.css").status_code == 200


def test_signing_in_and_out(browser: TestClient, idle: Application) -> None:
    refused = sign_in(browser, key="wrong")
    assert (refused.status_code, "not accepted" in refused.text) == (401, True)
    assert COOKIE not in browser.cookies
    entered = sign_in(browser)
    assert (entered.status_code, entered.headers["location"]) == (303, "/jobs")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert KEY not in cookie
    page = browser.get("/jobs", headers=HTML)
    assert (page.status_code, "api-key:1/Ana" in page.text) == (200, True)
    assert idle.actions.list_actions()[0].action == "sign_in"
    left = browser.post("/sign-out", data={"csrf_token": token_of(page)})
    assert (left.status_code, left.headers["location"]) == (303, "/sign-in")
    assert browser.get("/jobs", headers=HTML).status_code == 303


def test_every_page_has_the_strict_headers(browser: TestClient) -> None:
    sign_in(browser)
    for path in ("/", "/jobs", "/system", "/callbacks", "/dead-letters", "/actions", "/submit", "/jobs/none"):
        page = browser.get(path, headers=HTML)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|https?://(?!www\.w3\.org)", page.text), path


def test_a_form_is_refused_from_elsewhere_and_without_its_token(browser: TestClient, idle: Application) -> None:
    sign_in(browser)
    job = idle.machine.submit_job("hello_world", {"n": 1}).job
    address = f"/jobs/{job.job_id}/cancel"
    token = token_of(browser.get(f"/jobs/{job.job_id}", headers=HTML))
    good = {"csrf_token": token}
    assert browser.post(address, data={}).status_code == 403
    assert browser.post(address, data={"csrf_token": "0" * 64}).status_code == 403
    assert browser.post(address, data=good, headers={"Origin": "https://evil.example"}).status_code == 403
    assert browser.post(address, data=good, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    session = browser.cookies[COOKIE]
    browser.cookies.delete("geoworker_csrf")
    assert browser.post(address, data=good).status_code == 403
    waiting = idle.store.get_job(job.job_id)
    assert waiting is not None
    assert waiting.status is JobStatus.QUEUED
    token = token_of(browser.get(f"/jobs/{job.job_id}", headers=HTML))
    answer = browser.post(
        address, data={"csrf_token": token}, headers={"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 303
    cancelled = idle.store.get_job(job.job_id)
    assert cancelled is not None
    assert cancelled.status is JobStatus.CANCELLED
    assert session == browser.cookies[COOKIE]


def test_the_cookie_opens_no_post_of_the_api(browser: TestClient) -> None:
    sign_in(browser)
    assert browser.get("/api/jobs").status_code == 200
    assert browser.post("/api/jobs/submit/hello_world", json={"n": 1}).status_code == 401
    assert browser.post("/api/jobs/x/cancel").status_code == 401


def test_sessions_end_and_cannot_be_altered(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions([SecretStr(KEY), SecretStr("other")])
    session = sessions.begin("other", "Bo")
    assert session is not None
    assert (session.key, session.caller.name) == (2, "api-key:2/Bo")
    value = sessions.encode(session)
    assert sessions.decode(value) == session
    payload, _, signature = value.partition(".")
    for altered in (
        payload,
        f"{payload}.",
        f"{payload}.{signature[:-4]}AAA=",
        f"x{payload}.{signature}",
        "",
        ".",
        "e30.x",
        "é.é",
        sessions.encode(Session(1, "Bo", session.ends)).partition(".")[0] + "." + signature,
    ):
        assert sessions.decode(altered) is None, altered
    assert Sessions([SecretStr(KEY)]).decode(value) is None  # the key was taken away
    now = session.ends - LIFETIME_SECONDS
    monkeypatch.setattr("time.time", lambda: now + LIFETIME_SECONDS + 1)
    assert sessions.decode(value) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/jobs?a=b", "/jobs?a=b"),
        ("//evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_nowhere_else(given: str, kept: str) -> None:
    assert own_path(given) == kept


def test_without_authentication_only_this_machines_names_are_answered(settings: Settings, database_url: str) -> None:
    application = compose(settings, Role.EMBEDDED, database_url=database_url)
    asgi = create_app(application, manage_lifecycle=False)
    try:
        with TestClient(asgi, base_url="http://rebound.example:8080") as elsewhere:
            assert elsewhere.get("/jobs", headers=HTML).status_code == 403
            assert elsewhere.get("/live/jobs", headers=HTML).status_code == 403
        with TestClient(asgi, base_url="http://localhost:8080") as here:
            assert here.get("/jobs", headers=HTML).status_code == 200
    finally:
        application.lifecycle.drain()


def test_a_worker_shows_and_does_nothing(settings: Settings, database_url: str) -> None:
    update: dict[str, Any] = {"docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER}
    worker = compose(settings.model_copy(update=update), Role.WORKER, database_url=database_url)
    try:
        with TestClient(create_app(worker, manage_lifecycle=False), base_url=HERE) as client:
            job = worker.machine.submit_job("hello_world", {"n": 1}).job
            page = client.get(f"/jobs/{job.job_id}", headers=HTML)
            assert "read-only" in page.text
            assert "<form" not in page.text
            assert client.get("/submit", headers=HTML).status_code == 404
            assert client.post(f"/jobs/{job.job_id}/cancel", data={}).status_code in {404, 405}
            assert client.post("/callbacks/1/replay", data={}).status_code == 404
    finally:
        worker.lifecycle.drain()


def test_processes_report_and_say_when_they_stop(settings: Settings, database_url: str) -> None:
    first = compose(settings, Role.EMBEDDED, database_url=database_url)
    first.lifecycle.start()
    second = compose(settings.model_copy(update={"worker_id": "second"}), Role.EMBEDDED, database_url=database_url)
    second.lifecycle.start()
    try:
        second.lifecycle.drain()

        def reported(name: str) -> WorkerRecord:
            return next(worker for worker in first.worker_store.list_workers() if worker.worker_id == name)

        assert reported("second").state == "stopped"

        def all_running() -> bool:  # the first report was made while it started
            found = reported("test-worker")
            return found.state == "running" and bool(found.facts["loops"]["queue_worker"]["running"])

        wait_until(all_running)
        running = reported("test-worker")
        assert running.facts["loops"]["queue_worker"]["running"]
        assert running.facts["memory"]["resident_bytes"] > 1_000_000
        assert running.role == "embedded"
    finally:
        first.lifecycle.drain()
