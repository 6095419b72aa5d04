"""The Function App's zip: what is in it, that the host would index it, and that its pins are the lock's."""

from __future__ import annotations

import importlib.util
import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "function_app"

INDEX = """
import json, sys
import function_app
import app, core, infrastructure, services, transports
for module in (app, core, infrastructure, services, transports):
    assert module.__file__.startswith(sys.path[0]), module.__file__
assert "testing" not in sys.modules, "the test kit is imported in production"
from importlib.metadata import version
functions = function_app.app.get_functions()
print(json.dumps({
    "version": version("geoworker"),
    "functions": {f.get_function_name(): json.loads(f.get_function_json())["bindings"] for f in functions},
}))
"""


def load_package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("function_package", FOLDER / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


package = load_package()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target: Path = package.write_zip(tmp_path_factory.mktemp("zip") / "function_app.zip")
    return target


def index(archive: Path, folder: Path, environment: dict[str, str], site_packages: list[str] | None = None) -> Any:
    """Import the unpacked zip as the host's worker does: nothing of this project but the zip is on the path."""
    libraries = site.getsitepackages() if site_packages is None else site_packages
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    start = f"import sys; sys.path[:0] = [{str(folder)!r}]; sys.path += {libraries!r}\n{INDEX}"
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, "-S", "-E", "-P", "-c", start],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def example() -> dict[str, str]:
    values: dict[str, str] = json.loads((FOLDER / "local.settings.example.json").read_text())["Values"]
    return values


def test_the_zip_is_imported_and_indexed_in_service_bus_mode(archive: Path, tmp_path: Path) -> None:
    found = index(archive, tmp_path, example())
    assert found["version"] == package.project_version()
    bindings = {name: {one["type"]: one for one in listed} for name, listed in found["functions"].items()}
    assert {"http", "sweep", "jobs", "tasks"} <= set(bindings)
    assert bindings["jobs"]["serviceBusTrigger"]["queueName"] == "geospatial-jobs"
    assert bindings["tasks"]["serviceBusTrigger"]["queueName"] == "geospatial-tasks"
    assert {bindings[name]["serviceBusTrigger"]["connection"] for name in ("jobs", "tasks")} == {"ServiceBusConnection"}
    assert bindings["http"]["httpTrigger"]["authLevel"].lower() == "function"


def test_in_http_trigger_mode_without_service_bus_no_queue_is_listened_to(archive: Path, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in example().items() if "SharedAccessKey" not in value},
        "DOCKER_ORCHESTRATION_MODE": "http_trigger",
        "DOCKER_WORKER_URL": "https://worker.example.org",
    }
    found = index(archive, tmp_path, environment)
    types = {one["type"] for listed in found["functions"].values() for one in listed}
    assert "serviceBusTrigger" not in types
    assert {"httpTrigger", "timerTrigger"} <= types


def test_the_zip_is_the_same_each_time(archive: Path, tmp_path: Path) -> None:
    again = package.write_zip(tmp_path / "again.zip")
    assert again.read_bytes() == archive.read_bytes()


def test_the_zip_has_the_data_that_the_code_reads_and_nothing_of_this_machine(archive: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    assert {"host.json", "function_app.py", "requirements.txt"} <= set(names)
    assert any(name.endswith("migrations/0001_core.sql") for name in names)
    assert not [name for name in names if "__pycache__" in name or "local.settings" in name or "tests/" in name]


def test_requirements_are_the_locks_pins() -> None:
    assert (FOLDER / "requirements.txt").read_text() == package.requirements(), (
        "run `python deploy/function_app/package.py requirements`"
    )


def test_every_dependency_is_pinned_with_a_hash_for_the_host() -> None:
    text = package.requirements()
    pins = [line for line in text.splitlines() if "==" in line]
    names = {line.split("==")[0] for line in pins}
    assert len(names) == len(pins)
    assert text.count("--hash=sha256:") >= len(pins)
    assert {"azure-functions", "psycopg", "rasterio", "azure-monitor-opentelemetry-exporter"} <= names
    assert "colorama" not in names  # wanted on Windows only


def test_locks_that_disagree_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.lock", tmp_path / "other.lock"
    one.write_text(f"idna==3.1 \\\n    --hash=sha256:{'0' * 64}\n")
    other.write_text(f"idna==3.2 \\\n    --hash=sha256:{'1' * 64}\n")
    with pytest.raises(ValueError, match=r"idna is pinned to 3.1"):
        package.requirements([one, other])


def test_the_hosts_settings_fit_how_messages_are_settled() -> None:
    """Returning completes and raising abandons; the lock is renewed for as long as a function may run."""
    host = json.loads((FOLDER / "host.json").read_text())
    bus = host["extensions"]["serviceBus"]
    assert bus["autoCompleteMessages"] is True
    assert bus["prefetchCount"] == 0
    assert bus["maxAutoLockRenewalDuration"] >= host["functionTimeout"]
    assert host["extensions"]["http"]["routePrefix"] == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="wheels are for the host's Python"
)
def test_a_vendored_zip_wants_nothing_else(tmp_path: Path) -> None:
    vendored = package.write_zip(tmp_path / "vendored.zip", vendor=True)
    unpacked = tmp_path / "unpacked"
    found = index(vendored, unpacked, example(), [str(unpacked / package.VENDORED)])
    assert "jobs" in found["functions"]
