"""What compose, Bicep and the Function App's example set: every name is a setting, and nothing that is needed lacks.

``geoworker config check`` is the judge: with what a deployment sets (and what the image brings), each process in each
mode must start, with no setting that is misspelt or makes no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from bicep_support import FOLDER as AZURE
from bicep_support import Bicep, literal, properties, text, walk
from compose_support import FOLDER, environment_file, services

from app.configuration import Report, check
from app.settings import OrchestrationMode, Settings
from app.settings_catalogue import PLATFORM_VARIABLES, Process

EXAMPLE = environment_file(FOLDER / "compose.env.example")
MODES = [OrchestrationMode.SERVICE_BUS, OrchestrationMode.HTTP_TRIGGER]
STAND_INS = {
    "DATABASE_URL": "postgresql://identity@host:5432/geoworker?sslmode=require",
    "SERVICE_BUS_FQDN": "x.servicebus.windows.net",
    "ServiceBusConnection__fullyQualifiedNamespace": "x.servicebus.windows.net",
    "DOCKER_WORKER_URL": "https://worker.example.org",
    "BLOB_ACCOUNT_URL": "https://account.blob.core.windows.net/",
    "CALLBACK_URL": "https://functions.example.org/api/task/callback",
}
"""Values in the place of what Azure says at deployment; the names come from the files."""


def image_environment() -> dict[str, str]:
    """What the image sets, but for the variables of the system."""
    dockerfile = (FOLDER / "worker" / "Dockerfile").read_text()
    runtime = dockerfile.split(" AS runtime", 1)[1]
    known = {name.upper() for name in Settings.model_fields}
    return {
        name: value for name, value in re.findall(r"^(?:ENV)?\s+(\w+)=(\S+)", runtime, re.MULTILINE) if name in known
    }


def bicep_environment(worker: bool, mode: OrchestrationMode, host: str) -> dict[str, str]:
    """What the Bicep files set for one process in one mode."""
    part = "worker" if worker else "function"
    camel = "ServiceBus" if mode is OrchestrationMode.SERVICE_BUS else "HttpTrigger"
    main = Bicep.read(AZURE / "main.bicep").of("var")
    module = Bicep.read(AZURE / "modules" / (f"worker-{host}.bicep" if worker else "function.bicep")).of("var")
    found: dict[str, str] = {}
    for variable in ("commonSettings", f"{part}CommonSettings", f"{part}{camel}Settings"):
        found |= _plain(properties(main[variable].body))
    secrets = [f"{part}CommonSecrets", *([f"{part}{camel}Secrets"] if camel == "HttpTrigger" else [])]
    for variable in secrets:
        found |= dict.fromkeys(properties(main[variable].body), "from-the-vault")
    found |= _plain(properties(module["platformSettings"].body))
    return {**found, "DOCKER_ORCHESTRATION_MODE": str(mode)}


def _plain(given: Mapping[str, object]) -> dict[str, str]:
    return {name: STAND_INS.get(name, literal(value) or "x") for name, value in given.items()}  # type: ignore[arg-type]


def refuse(report: Report) -> None:
    assert not report.faults, [str(fault) for fault in report.faults]
    assert not report.warnings, [str(warning) for warning in report.warnings]


def assert_known(names: object) -> None:
    known = {name.upper() for name in Settings.model_fields} | set(PLATFORM_VARIABLES)
    unknown = set(names) - known  # type: ignore[call-overload]
    assert not unknown, f"no setting, and nothing that the platform reads: {sorted(unknown)}"


@pytest.mark.parametrize("mode", MODES)
def test_compose_sets_what_exists_and_all_that_is_needed(mode: OrchestrationMode) -> None:
    found = 0
    for name, service in services(str(mode), EXAMPLE).items():
        role = name.split("-", 1)[0]
        if role not in ("worker", "orchestrator"):
            continue
        found += 1
        environment = {key: str(value) for key, value in service["environment"].items()}
        assert_known(environment)
        assert environment["DOCKER_ORCHESTRATION_MODE"] == mode
        assert service["command"] == [role]
        refuse(check({**image_environment(), **environment}, Process(role)))
    assert found == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", ["appservice", "containerapps"])
def test_bicep_sets_what_exists_and_all_that_the_worker_needs(mode: OrchestrationMode, host: str) -> None:
    environment = bicep_environment(True, mode, host)
    assert_known(environment)
    refuse(check({**image_environment(), **environment}, Process.WORKER))


@pytest.mark.parametrize("mode", MODES)
def test_bicep_sets_what_exists_and_all_that_the_function_app_needs(mode: OrchestrationMode) -> None:
    environment = bicep_environment(False, mode, "function")
    assert_known(environment)
    refuse(check(environment, Process.FUNCTION_APP))


def test_the_function_app_may_have_queues_of_its_own_in_http_trigger_mode() -> None:
    both = {
        **bicep_environment(False, OrchestrationMode.SERVICE_BUS, "function"),
        **bicep_environment(False, OrchestrationMode.HTTP_TRIGGER, "function"),
    }
    refuse(check(both, Process.FUNCTION_APP))


def test_the_check_would_see_a_setting_that_is_left_out() -> None:
    whole = bicep_environment(False, OrchestrationMode.HTTP_TRIGGER, "function")
    for name in ("DATABASE_URL", "DOCKER_WORKER_URL"):
        report = check({key: value for key, value in whole.items() if key != name}, Process.FUNCTION_APP)
        assert [fault.field for fault in report.faults] == [name]


def test_the_example_for_local_functions_is_complete() -> None:
    values = json.loads((FOLDER / "function_app" / "local.settings.example.json").read_text())["Values"]
    assert_known(values)
    refuse(check(values, Process.FUNCTION_APP))


def test_the_platform_waits_longer_than_a_handler_is_given() -> None:
    app_service = bicep_environment(True, OrchestrationMode.SERVICE_BUS, "appservice")
    assert float(app_service["SHUTDOWN_GRACE_SECONDS"]) + 10 <= float(app_service["WEBSITES_CONTAINER_STOP_TIME_LIMIT"])
    container_apps = bicep_environment(True, OrchestrationMode.SERVICE_BUS, "containerapps")
    source = (AZURE / "modules" / "worker-containerapps.bicep").read_text()
    limit = re.search(r"terminationGracePeriodSeconds: (\d+)", source)
    assert limit is not None
    assert float(container_apps["SHUTDOWN_GRACE_SECONDS"]) + 10 <= float(limit.group(1))


def test_probes_ask_paths_that_need_no_key() -> None:
    from app.api.auth import OPEN_PATHS

    asked = set()
    for path in AZURE.rglob("*.bicep"):
        root = Bicep.read(path).root
        pairs = [node.named_children for node in walk(root) if node.type == "object_property"]
        asked |= {literal(pair[1]) for pair in pairs if text(pair[0]) in ("path", "healthCheckPath")}
    assert asked == {"/livez", "/readyz"}
    assert asked <= OPEN_PATHS


def test_the_page_of_settings_is_where_the_deployment_page_points() -> None:
    assert "docs/configuration.md" in (AZURE / "README.md").read_text().replace("../../", "")


def test_the_image_has_no_secret_among_its_settings() -> None:
    dockerfile = Path(FOLDER / "worker" / "Dockerfile").read_text()
    assert not re.search(
        r"^(?:ARG|ENV)?\s*\w*(?:KEY|SECRET|PASSWORD|TOKEN|CONNECTION_STRING)\w*=", dockerfile, re.MULTILINE
    )
    assert image_environment() == {
        "HOST": "0.0.0.0",
        "PORT": "8080",
        "DATA_DIR": "/var/lib/geoworker",
        "ETL_MOUNT": "/mounts/etl-temp",
        "LOG_FORMAT": "json",
    }
