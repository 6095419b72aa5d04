"""The image's Dockerfile, and the health check that it runs. `make replay` does its steps and runs what comes out."""

from __future__ import annotations

import socket
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app.healthcheck import alive

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "worker" / "Dockerfile"
sys.path.insert(0, str(ROOT / "deploy" / "worker" / "replay"))

from dockerfile import read, resolve  # noqa: E402 - the replay is a script, and is imported as one
from libraries import INSTALLED  # noqa: E402

BUILD, RUNTIME = read(DOCKERFILE)


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing to say."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False), (404, False)])
def test_alive_means_that_livez_answers_200(status: int, expected: bool) -> None:
    with answering(status) as port:
        assert alive(port) is expected


def test_nobody_listening_and_a_silent_peer_are_not_alive() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert alive(silent.getsockname()[1], timeout=0.1) is False
        port = silent.getsockname()[1]
    assert alive(port) is False


def test_the_packages_of_the_project_are_copied_and_nothing_else_of_the_tree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {source for one in BUILD.instructions if one.name == "COPY" for source in one.words[:-1]}
    assert packages <= copied
    allowed = {
        line[1:] for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_every_dependency_is_installed_from_a_lock_with_hashes() -> None:
    for one in BUILD.instructions:
        if one.name == "RUN" and "pip install" in one.text and ".lock" in one.text:
            assert "--require-hashes" in one.text
            assert "--only-binary :all:" in one.text
    installs = [one.text for one in BUILD.instructions if "pip install" in one.text]
    assert any("runtime.lock" in text and "azure-monitor.lock" in text for text in installs)


def test_the_exporter_that_is_locked_is_the_one_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = (ROOT / "requirements" / "azure-monitor.in").read_text().split()
    assert wanted == project["optional-dependencies"]["azure-monitor"]


def test_the_system_libraries_that_are_counted_on_are_installed() -> None:
    packages = {"libexpat.so.1": "libexpat1"}
    assert set(packages) == INSTALLED
    installing = next(one.text for one in RUNTIME.instructions if "apt-get install" in one.text)
    assert all(f'"{package}=' in installing for package in packages.values())


def test_it_runs_as_nobody_in_particular_and_signals_reach_it() -> None:
    last = {one.name: one for one in RUNTIME.instructions}
    user = last["USER"].text.split(":")
    assert all(part.isdecimal() and int(part) >= 10000 for part in user)
    assert last["ENTRYPOINT"].words == ["tini", "--", "geoworker"]
    assert last["CMD"].words == ["worker"]
    assert last["STOPSIGNAL"].text == "SIGTERM"
    assert '["python", "-m", "app.healthcheck"]' in last["HEALTHCHECK"].text


def test_labels_are_those_of_the_build_and_not_of_the_moment() -> None:
    labels = next(one for one in RUNTIME.instructions if one.name == "LABEL")
    given = {"VERSION": "1.2.3", "REVISION": "abc", "CREATED": "2026-01-01T00:00:00Z"}
    resolved = type(labels)(labels.name, labels.flags, resolve(labels.text, given)).pairs
    assert resolved["org.opencontainers.image.version"] == "1.2.3"
    assert resolved["org.opencontainers.image.revision"] == "abc"
    assert resolved["org.opencontainers.image.created"] == "2026-01-01T00:00:00Z"
    assert resolved["org.opencontainers.image.licenses"] == "MIT"


def test_the_readme_names_drivers_that_the_image_has() -> None:
    drivers = (DOCKERFILE.parent / "gdal-drivers.txt").read_text().splitlines()[1:]
    named = (DOCKERFILE.parent / "README.md").read_text().split("Among them:", 1)[1].split(".", 1)[0]
    for driver in named.replace("\n", " ").split(","):
        assert driver.strip().strip("`") in drivers
    for driver in ("GTiff", "COG", "VRT", "netCDF", "JP2OpenJPEG"):
        assert driver in drivers
