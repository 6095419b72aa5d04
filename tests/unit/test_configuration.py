"""Where settings count, `geoworker config`, and the page made from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cli
from app.configuration import check
from app.settings import OrchestrationMode, Settings
from app.settings_catalogue import Process, entries
from app.settings_page import configuration_page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
WORKER = {
    "DOCKER_ORCHESTRATION_MODE": "service_bus",
    "HOST": "0.0.0.0",
    "API_KEYS": "hunter2",
    "DATABASE_URL": "postgresql://geoworker:hunter2@db/geoworker",
    "SERVICE_BUS_FQDN": "x.servicebus.windows.net",
}


def run(environment: dict[str, str], *arguments: str) -> Result:
    clean = dict.fromkeys((name.upper() for name in Settings.model_fields), None)
    return CliRunner().invoke(cli, ["config", *arguments], env={**clean, **environment})


def test_every_setting_is_in_the_catalogue() -> None:
    named = [name for _, name, _ in entries()]
    missing = sorted(set(Settings.model_fields) - set(named))
    assert not missing, f"say in app/settings_catalogue.py where these count, then `make docs`: {missing}"
    assert sorted(named) == sorted(Settings.model_fields)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run `make docs`"


def test_every_setting_has_its_row_with_a_meaning() -> None:
    rows = {line.split("`")[1]: line for line in configuration_page().splitlines() if line.startswith("| `")}
    for name, field in Settings.model_fields.items():
        assert field.description
        assert rows[name.upper()].rstrip(" |").endswith(field.description.replace("|", "\\|").rstrip(" |"))


def test_a_complete_environment_passes_and_no_secret_is_shown() -> None:
    result = run(WORKER, "check")
    assert result.exit_code == 0, result.output
    assert "worker in service_bus mode: would start" in result.output
    assert "hunter2" not in result.output
    lines = {line.split()[0]: line.split()[1:3] for line in result.output.splitlines() if "  " in line}
    assert lines["API_KEYS"] == ["environment", "********"]
    assert lines["SERVICE_BUS_FQDN"] == ["environment", "x.servicebus.windows.net"]
    assert lines["WORKER_CONCURRENCY"] == ["default", "1"]


@pytest.mark.parametrize("left_out", ["API_KEYS", "DATABASE_URL", "SERVICE_BUS_FQDN"])
def test_what_is_missing_is_named_and_the_exit_code_says_so(left_out: str) -> None:
    result = run({name: value for name, value in WORKER.items() if name != left_out}, "check", "--json")
    assert result.exit_code == 1
    assert [fault["name"] for fault in json.loads(result.output)["faults"]] == [left_out]


def test_everything_missing_is_named_at_once() -> None:
    result = run({"HOST": "0.0.0.0"}, "check", "--mode", "http_trigger", "--role", "orchestrator", "--json")
    assert {fault["name"] for fault in json.loads(result.output)["faults"]} == {
        "API_KEYS",
        "DATABASE_URL",
        "DOCKER_WORKER_URL",
    }


def test_what_cannot_be_parsed_is_a_fault_and_not_a_traceback() -> None:
    result = run({**WORKER, "PORT": "hunter2"}, "check")
    assert result.exit_code == 1
    assert "FAIL  PORT" in result.output
    assert "hunter2" not in result.output


def test_a_setting_of_another_mode_or_process_is_pointed_out() -> None:
    report = check({**WORKER, "DOCKER_WORKER_URL": "http://worker"}, Process.WORKER)
    assert [warning.field for warning in report.warnings] == ["DOCKER_WORKER_URL"]
    assert not report.faults


def test_in_http_trigger_mode_service_bus_is_the_function_apps_alone() -> None:
    """Its own queues may be there; a worker that holds a namespace has a setting too many."""
    name = "ServiceBusConnection__fullyQualifiedNamespace"
    bus = {"DOCKER_ORCHESTRATION_MODE": "http_trigger", "SERVICE_BUS_FQDN": "x.servicebus.windows.net"}
    assert [one.field for one in check({**WORKER, **bus}, Process.WORKER).warnings] == ["SERVICE_BUS_FQDN"]
    front = {**WORKER, **bus, "DOCKER_WORKER_URL": "https://worker.example.org"}
    del front["HOST"]
    assert [one.field for one in check(front, Process.FUNCTION_APP).faults] == [name]
    complete = check({**front, name: bus["SERVICE_BUS_FQDN"]}, Process.FUNCTION_APP)
    assert not complete.faults
    assert not complete.warnings


def test_a_misspelt_name_is_pointed_out() -> None:
    environment = {name: value for name, value in WORKER.items() if name != "SERVICE_BUS_FQDN"}
    report = check({**environment, "SERVICE_BUS_FQND": "x.servicebus.windows.net"}, Process.WORKER)
    assert [warning.field for warning in report.warnings] == ["SERVICE_BUS_FQND"]
    assert "SERVICE_BUS_FQDN" in report.warnings[0].message


def test_names_of_the_platform_are_no_mistakes() -> None:
    report = check({**WORKER, "AZURE_CLIENT_ID": "x", "HOSTNAME": "h", "PATH": "/bin", "HOME": "/"}, Process.WORKER)
    assert not report.warnings


def test_triggers_that_listen_on_another_namespace_than_we_send_to_are_a_fault() -> None:
    sends = {"SERVICE_BUS_FQDN": "a.servicebus.windows.net"}
    name = "ServiceBusConnection__fullyQualifiedNamespace"
    for listens, wrong in ((None, True), ("b.servicebus.windows.net", True), ("A.servicebus.windows.net", False)):
        environment = {**WORKER, **sends, **({name: listens} if listens is not None else {})}
        report = check(environment, Process.FUNCTION_APP)
        assert [fault.field for fault in report.faults] == ([name] if wrong else [])


def test_what_the_check_demands_is_what_start_up_demands() -> None:
    """Without any one required setting the process refuses to start, and with all of them the check is content."""
    from app.composition import compose
    from app.role import Role
    from core.errors import ConfigurationError

    for mode in (OrchestrationMode.SERVICE_BUS, OrchestrationMode.HTTP_TRIGGER):
        report = check({"DOCKER_ORCHESTRATION_MODE": mode}, Process.ORCHESTRATOR)
        assert report.faults
        with pytest.raises(ConfigurationError) as caught:
            compose(Settings.from_env({}, docker_orchestration_mode=mode), Role.ORCHESTRATOR)
        assert {fault.field for fault in caught.value.faults} <= {fault.field for fault in report.faults}


def test_choices_are_spelt_as_everywhere_else() -> None:
    for command, option, value in (("jobs", "--status", "completed"), ("config check", "--mode", "http_trigger")):
        usage = CliRunner().invoke(cli, [*command.split(), "--help"]).output
        assert value in usage.split(option, 1)[1][:120]
