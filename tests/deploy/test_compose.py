"""compose.yaml: the specification's schema, order of starting, health checks, secrets, and the emulator's limits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from compose_support import FOLDER, MissingVariable, environment_file, raw, services, substitute

from app.settings import Settings
from testing.emulator.config import load_config
from tests.azurite import KEY, azurite

EXAMPLE = environment_file(FOLDER / "compose.env.example")
PROFILES = ("service_bus", "http_trigger")


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_file_fits_the_compose_specification(tmp_path: Path) -> None:
    ended = check_schema(FOLDER / "compose.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    broken = raw()
    broken["services"]["postgres"]["healthcheck"]["intervall"] = "5s"
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(broken))
    assert check_schema(tmp_path / "compose.yaml").returncode != 0


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_has_all_that_it_needs_and_starts_in_order(profile: str) -> None:
    found = services(profile, EXAMPLE)
    assert {"postgres", "azurite"} <= set(found)
    assert {name.split("-")[0] for name in found} >= {"orchestrator", "worker"}
    assert ("servicebus" in found) == (profile == "service_bus")
    started: set[str] = set()
    waiting = dict(found)
    while waiting:
        ready = [name for name, one in waiting.items() if set(one.get("depends_on", {})) <= started]
        assert ready, f"these wait for each other or for what is not in the profile: {sorted(waiting)}"
        started.update(ready)
        for name in ready:
            del waiting[name]


@pytest.mark.parametrize("profile", PROFILES)
def test_who_waits_for_health_waits_for_something_that_has_a_health_check(profile: str) -> None:
    found = services(profile, EXAMPLE)
    own = "HEALTHCHECK" in (FOLDER / "worker" / "Dockerfile").read_text()
    for name, service in found.items():
        for other, how in service.get("depends_on", {}).items():
            checked = "healthcheck" in found[other] or ("build" in found[other] and own)
            if how["condition"] == "service_healthy":
                assert checked, f"{name} waits for the health of {other}"
            if how["condition"] == "service_completed_successfully":
                assert found[other]["restart"] == "no"


@pytest.mark.parametrize("left_out", ["POSTGRES_PASSWORD", "API_KEYS", "ACCEPT_EULA", "MSSQL_SA_PASSWORD"])
def test_without_a_secret_nothing_starts(left_out: str) -> None:
    with pytest.raises(MissingVariable, match=left_out):
        services("service_bus", {name: value for name, value in EXAMPLE.items() if name != left_out})


def test_no_secret_is_written_in_the_file_and_the_example_has_every_variable() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    optional = set(re.findall(r"\$\{(\w+):-", text))
    assert required == set(EXAMPLE)
    commented = set(re.findall(r"^#(\w+)=", (FOLDER / "compose.env.example").read_text(), re.MULTILINE))
    assert optional == commented
    for service in raw()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|KEY|SECRET", name):
                assert value.startswith("${"), f"{name} is written in the file"


def test_the_example_is_ignored_by_git_once_it_is_filled_in() -> None:
    ended = subprocess.run(["git", "check-ignore", "deploy/.env"], cwd=FOLDER.parent, capture_output=True, check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_a_worker_has_the_time_to_drain(profile: str) -> None:
    for name, service in services(profile, EXAMPLE).items():
        if "worker" in name or "orchestrator" in name:
            grace = float(service["stop_grace_period"].removesuffix("s"))
            set_grace = float(service["environment"].get("SHUTDOWN_GRACE_SECONDS", 0))
            assert grace >= (set_grace or Settings.from_env({}).shutdown_grace_seconds) + 5


def test_processes_have_no_more_rights_than_they_need() -> None:
    for service in services("service_bus", EXAMPLE).values():
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_the_emulators_config_is_read_by_our_emulator_and_is_within_the_official_ones_limits() -> None:
    config = load_config(FOLDER / "compose" / "Config.json")
    assert config.namespace == "sbemulatorns"  # the official emulator takes no other name
    for queue in config.queues:
        assert 5 <= queue.lock_duration.total_seconds() <= 300
        assert 1 <= queue.max_delivery_count <= 10
        assert queue.default_message_time_to_live is not None
        assert 300 <= queue.default_message_time_to_live.total_seconds() <= 3600


def test_the_wait_ends_when_the_url_answers_and_gives_up_in_time() -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing to say."""

    script = FOLDER / "compose" / "wait_for_http.py"
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/health"
        assert subprocess.run([sys.executable, script, url, "10"], check=False).returncode == 0
        server.shutdown()
    ended = subprocess.run([sys.executable, script, url, "0.2"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert url in ended.stderr


def test_containers_are_made_once(tmp_path: Path) -> None:
    script = FOLDER / "compose" / "make_containers.py"
    environment = services("service_bus", EXAMPLE)["azurite-containers"]["environment"]
    assert environment["BLOB_ACCOUNT_KEY"] == KEY
    with azurite(tmp_path) as blob:
        environment = {"BLOB_ACCOUNT_URL": blob.account_url, "BLOB_ACCOUNT_KEY": environment["BLOB_ACCOUNT_KEY"]}
        said = [
            subprocess.run(
                [sys.executable, script, "sources", "outputs"],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            for _ in range(2)
        ]
    assert said == [["made", "sources", "made", "outputs"], ["sources", "is", "there", "outputs", "is", "there"]]


def test_the_container_of_outputs_is_made() -> None:
    for profile in PROFILES:
        found = services(profile, EXAMPLE)
        made = found["azurite-containers"]["command"]
        for service in found.values():
            if "OUTPUT_URL" in service.get("environment", {}):
                assert service["environment"]["OUTPUT_URL"].removeprefix("az://") in made


def test_substitution_is_that_of_compose() -> None:
    assert substitute("${A:-x} ${B:-y} $$C", {"A": "1", "B": ""}) == "1 y $C"
