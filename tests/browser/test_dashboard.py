"""The dashboard as people use it: in a real Chromium, against a real process, without reloading a page."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.composition import Application
from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from core.jobs import task_id
from core.records import JobQuery, TaskQuery
from core.states import JobStatus
from tests.browser import scenes
from tests.browser.serving import Served
from tests.http_support import receivers

expect.set_options(timeout=20_000)

LOOKS: Mapping[str, Mapping[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}
RULES: Mapping[str, Mapping[str, Any]] = {  # what a look can change is looked at in that look
    "light": {},
    "dark": {"runOnly": ["color-contrast"]},
    "phone": {"rules": {"color-contrast": {"enabled": False}}},
}
HOSTILE = '<img src=x onerror="document.title=1">\u202e<script>document.title=2</script>'


def stay(page: Page) -> None:
    """Mark the document: a reload would lose the mark."""
    page.evaluate("window.stayed = true")


def stayed(page: Page) -> bool:
    return bool(page.evaluate("window.stayed === true"))


def test_a_job_is_submitted_from_its_form_and_watched_to_its_end(page: Page, application: Application) -> None:
    page.goto("/")
    page.get_by_role("link", name="Submit", exact=True).click()
    page.get_by_role("link", name="hello_world", exact=True).click()
    page.get_by_label("n", exact=True).fill("120")
    page.get_by_label("failure rate").fill("0.1")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{64}$"))
    stay(page)
    expect(page.locator("[data-toast]")).to_have_text("The job is submitted.")
    expect(page.locator(".title .badge")).to_have_text("completed")
    expect(page.get_by_role("heading", name="2 reply")).to_be_visible()
    expect(page.get_by_role("link", name="120 completed")).to_be_visible()
    expect(page.get_by_text('"greeted": 120')).to_be_visible()
    expect(page.locator("[data-announcer]")).to_have_text("completed")
    assert stayed(page)
    job = application.store.get_job(page.url.rsplit("/", maxsplit=1)[1])
    assert job is not None
    assert (job.parameters["n"], job.parameters["failure_rate"], job.submitted_by) == (120, 0.1, "anonymous")


def test_a_wrong_form_says_what_is_wrong_at_each_field(page: Page) -> None:
    page.goto("/submit/hello_world")
    stay(page)
    page.get_by_label("n", exact=True).fill("-3")
    page.get_by_label("message").fill("x" * 5)
    page.get_by_label("failure rate").fill("7")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("was not submitted")
    expect(page.locator("[data-faults-of=n]")).to_contain_text("greater than or equal to 0")
    expect(page.locator("[data-faults-of=failure_rate]")).to_contain_text("less than or equal to 1")
    expect(page.get_by_label("n", exact=True)).to_be_focused()
    assert stayed(page)
    page.expected_faults[:] = [  # Chromium tells every answer of 4xx on its console
        fault for fault in page.expected_faults if "422" not in fault
    ]


def test_a_running_job_is_cancelled_and_replayed(
    page: Page, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def wait(_: Any, context: DockerTaskContext) -> Mapping[str, Any]:
        context.report_progress(40, "holding the gate")
        while not gate.wait(0.02):
            if context.should_stop():
                return context.interrupted()
        return {"success": True, "greeting": "late", "index": 0}

    replace_handler(application, monkeypatch, "hello_world_greeting", wait)
    submitted = application.machine.submit_job("hello_world", {"n": 5, "message": "cancel me"})
    page.goto(f"/jobs/{submitted.job.job_id}")
    stay(page)
    expect(page.get_by_text("holding the gate").first).to_be_visible()
    expect(page.locator("[data-live-word]")).to_have_text("live")
    page.locator("summary", has_text="Cancel").click()
    expect(page.get_by_text(re.compile("3 waiting tasks will never start. 2 running tasks are told"))).to_be_visible()
    page.get_by_label("Reason").fill("wrong message")
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.locator(".title .badge")).to_have_text("cancelled")
    expect(page.locator("[data-toast]")).to_contain_text("is cancelled")
    expect(page.get_by_text("cancelled by anonymous: wrong message").first).to_be_visible()
    assert stayed(page)
    gate.set()

    page.locator("summary", has_text="Replay").click()
    page.get_by_role("radio", name="Failed tasks only").check()
    page.get_by_role("button", name="Replay").click()
    page.wait_for_url(lambda address: not address.endswith(submitted.job.job_id))
    expect(page.locator("[data-toast]")).to_have_text("Run 2 has begun.")
    expect(page.locator(".title .badge")).to_have_text("completed")
    expect(page.get_by_text("Replay of")).to_be_visible()
    actions = application.actions.of_job(submitted.job.job_id)
    assert [(one.action, one.actor, one.via) for one in actions] == [
        ("replay", "anonymous", "dashboard"),
        ("cancel", "anonymous", "dashboard"),
    ]
    assert actions[1].details == {"reason": "wrong message"}


def replace_handler(
    application: Application, monkeypatch: pytest.MonkeyPatch, task_type: str, handler: Callable[..., Any]
) -> None:
    from dataclasses import replace

    specs = application.handlers._specs
    monkeypatch.setitem(specs, task_type, replace(specs[task_type], handler=handler))


def test_a_job_is_replayed_from_a_stage_and_an_error_is_followed_to_its_attempts(
    page: Page, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Mapping[str, Any]:
        raise PermanentError(HOSTILE, code="NO_REPLY", details={"file": HOSTILE})

    with monkeypatch.context() as patched:
        replace_handler(application, patched, "hello_world_reply", fail)
        submitted = application.machine.submit_job("hello_world", {"n": 2, "message": "no reply"})
        page.goto(f"/jobs/{submitted.job.job_id}")
        stay(page)
        expect(page.locator(".title .badge")).to_have_text("failed")
        expect(page.get_by_role("heading", name="Errors")).to_be_visible()
        expect(page.locator(".errors bdi")).to_have_text(HOSTILE)
        page.get_by_role("link", name="the task with its attempts").click()
    expect(page.get_by_role("heading", name="Attempts")).to_be_visible()
    expect(page.locator(".attempt .fault")).to_contain_text("NO_REPLY")
    expect(page.locator(".attempt .fault")).to_contain_text("<script>")
    page.get_by_text("Details", exact=True).click()
    expect(page.get_by_role("region", name="Details of attempt 1")).to_contain_text("onerror")
    page.go_back()
    page.locator("summary", has_text="Replay").click()
    page.get_by_role("radio", name="From a stage").check()
    page.get_by_label("Stage", exact=True).select_option("2")
    page.get_by_role("button", name="Replay").click()
    page.wait_for_url(lambda address: not address.endswith(submitted.job.job_id))
    expect(page.locator(".title .badge")).to_have_text("completed")
    assert page.title().startswith("hello_world")


def test_a_raster_is_seen_and_replayed_from_a_checkpoint(page: Page, application: Application) -> None:
    from services.raster import sample_raster

    submitted = application.machine.submit_job(
        "process_raster_docker", {"source_url": str(sample_raster()), "target_crs": "EPSG:3857"}
    )
    page.goto(f"/jobs/{submitted.job.job_id}")
    stay(page)
    expect(page.locator(".title .badge")).to_have_text("completed", timeout=60_000)
    for image in page.locator("figure img").all():
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 100
    expect(page.get_by_text("Before: the source in its own projection")).to_be_visible()
    expect(page.locator(".map path.footprint")).to_have_count(2)
    expect(page.locator(".histogram path")).to_have_count(3)
    expect(page.get_by_role("heading", name="STAC item")).to_be_visible()
    expect(page.get_by_text("EPSG:3857").first).to_be_visible()
    assert stayed(page)

    page.locator("summary", has_text="Replay").click()
    expect(page.get_by_role("radio", name="Failed tasks only")).to_be_disabled()
    page.get_by_role("radio", name="From a checkpoint").check()
    page.get_by_role("spinbutton", name="Phase").fill("2")
    page.get_by_role("button", name="Replay").click()
    page.wait_for_url(lambda address: not address.endswith(submitted.job.job_id))
    expect(page.locator(".title .badge")).to_have_text("completed", timeout=60_000)
    (task,) = application.store.list_tasks(TaskQuery(job_id=page.url.rsplit("/", maxsplit=1)[1]))
    assert task.status == "completed"


def test_lists_are_live_and_filtered(page: Page, application: Application) -> None:
    page.goto("/jobs?type=hello_world_docker")
    stay(page)
    before = page.locator(".job").count()
    application.machine.submit_job("hello_world_docker", {"n": 1, "message": "appears"})
    application.machine.submit_job("hello_world", {"n": 1, "message": "does not"})
    expect(page.locator(".job")).to_have_count(before + 1)
    expect(page.locator(".job").first).to_contain_text("hello_world_docker")
    expect(page.locator(".job .badge").first).to_have_text("completed")
    assert stayed(page)
    job = application.store.list_jobs(JobQuery(job_type="hello_world_docker", limit=1))[0]
    page.get_by_label("Id").fill(job.job_id[:9].upper())
    page.get_by_role("button", name="Filter").click()
    page.get_by_label("Type").select_option("")
    expect(page.locator(".job")).to_have_count(1)
    page.goto(f"/jobs?id={job.job_id}")
    assert page.url.endswith(f"/jobs/{job.job_id}")


def test_an_undelivered_callback_is_sent_again(page: Page, application: Application) -> None:
    with receivers() as receiver:
        target = receiver(200)
        job_id = scenes.every_state(application.database, "undelivered", callback_url=target.url)
        page.goto("/callbacks")
        stay(page)
        entry = page.locator(f".entry:has(a[href*='{task_id(job_id, 1, 6)}'])")
        number = entry.get_attribute("data-entry")
        entry.get_by_role("button", name=f"Send message {number} again").click()
        target.wait_for(1)
        expect(page.locator(f"[data-entry='{number}']")).to_have_count(0)
    assert stayed(page)
    assert application.actions.list_actions(limit=1)[0].target == number


def test_a_stream_that_breaks_comes_back(page: Page, application: Application, site: Served) -> None:
    page.goto("/jobs?type=hello_world_triggered")
    expect(page.locator("[data-live-word]")).to_have_text("live")
    stay(page)
    page.context.set_offline(True)
    page.evaluate("window.dispatchEvent(new Event('offline'))")
    application.machine.submit_job("hello_world_triggered", {"n": 1, "message": "meanwhile"})
    page.context.set_offline(False)
    expect(page.locator(".job")).to_have_count(1, timeout=30_000)
    assert stayed(page)
    assert site.address in page.url


@pytest.mark.parametrize("look", LOOKS)
def test_no_serious_fault_of_accessibility(make_page: Callable[..., Page], application: Application, look: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    job_id = scenes_once(application)
    task = application.store.list_tasks(TaskQuery(job_id=job_id, offset=6, limit=1))[0]
    page = make_page(**LOOKS[look])
    addresses = [
        "/",
        "/jobs",
        f"/jobs/{job_id}",
        f"/jobs/{job_id}/tasks/{task.task_id}",
        "/submit",
        "/submit/bootstrap_h3_docker",
        "/callbacks",
        "/dead-letters",
        "/system",
        "/actions",
    ]
    serious = []
    for address in addresses:
        page.goto(address)
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        found = Axe().run(page, options=RULES[look])
        serious += [
            f"{address}: {fault['id']} {[node['html'][:160] for node in fault['nodes'][:2]]}"
            for fault in found.response["violations"]
            if fault["impact"] in {"serious", "critical"}
        ]
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], address
    assert serious == []


def scenes_once(application: Application) -> str:
    from core.jobs import job_fingerprint

    job_id = job_fingerprint("mosaic_docker", {"scene": "axe"})
    if application.store.get_job(job_id) is None:
        scenes.every_state(application.database, "axe")
        scenes.large_job(application.database, "axe-large", 1000)
        scenes.other_worker(application.database)
    return job_id


def test_two_versions_at_once_stand_out_and_everything_is_reached_by_keyboard(
    page: Page, application: Application
) -> None:
    scenes.other_worker(application.database)
    page.goto("/system")
    expect(page.get_by_text("Two versions run at once: 0.0.9 and")).to_be_visible()
    expect(page.get_by_text("worker-1.example:7").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.goto("/submit/hello_world")
    page.get_by_label("n", exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{64}$"))
    expect(page.locator(".title .badge")).to_have_text("completed")
    replay = page.locator("summary", has_text="Replay")
    expect(replay).to_be_visible()
    replay.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(replay).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_texts_from_jobs_neither_run_nor_break_the_page(
    make_page: Callable[..., Page], application: Application
) -> None:
    megabyte = HOSTILE + "\u05d0\u05d1" * 500_000
    job_id = application.database.run(
        lambda connection: scenes.add_job(
            connection,
            "hostile",
            job_type=HOSTILE,
            status="failed",
            parameters={"a": megabyte, HOSTILE: 1},
            submitted_by=HOSTILE,
            finished_at="=now()",
            error_details={"type": HOSTILE, "message": megabyte, "retryable": False, "cause": HOSTILE, "details": {}},
        )
    )
    page = make_page(viewport={"width": 390, "height": 844})
    page.goto(f"/jobs/{job_id}")
    assert len(page.content()) < 150_000
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("img[src='x'], main script").count() == 0
    assert page.title() not in {"1", "2"}
    page.get_by_role("link", name=re.compile("Show all .* characters")).first.click()
    expect(page.get_by_role("region", name="Parameters as JSON")).to_contain_text("onerror")
    expect(page.get_by_role("region", name="Parameters as JSON")).to_have_attribute("data-shown-all", "")
    assert page.get_by_role("region", name="Parameters as JSON").evaluate("pre => pre.textContent.length") > 1_000_000
    expect(page.get_by_role("link", name="Open as plain text")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto("/jobs")
    expect(page.locator(".job").filter(has_text="onerror").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("img").count() == 0


def test_a_stage_of_ten_thousand_tasks_is_light_and_drilled_into(page: Page, application: Application) -> None:
    job_id = scenes.large_job(application.database, "ten thousand", 10_000)
    weight = {"bytes": 0}
    page.on(
        "response",
        lambda answer: (
            weight.update(bytes=weight["bytes"] + int(answer.request.sizes()["responseBodySize"]))
            if "/live/" not in answer.url
            else None
        ),
    )
    page.goto(f"/jobs/{job_id}")
    expect(page.get_by_role("link", name=re.compile("7.487 completed"))).to_be_visible()
    assert weight["bytes"] < 300_000
    assert page.locator(".cells rect").count() <= 400
    page.get_by_role("link", name=re.compile("13 failed")).first.click()
    expect(page.locator(".lanerow")).to_have_count(13)
    page.goto(f"/jobs/{job_id}")
    page.locator(".cells a").nth(2).click()
    expect(page.locator(".lanerow").first).to_be_visible()
    assert "start=" in page.url
    job = application.store.get_job(job_id)
    assert job is not None
    assert job.status is JobStatus.PROCESSING
