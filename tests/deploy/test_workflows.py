"""The workflows and parameter files that users copy agree with the Bicep files, the Makefile and the pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from bicep_support import FOLDER as AZURE
from bicep_support import Bicep

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.name: path for path in sorted((ROOT / "deploy" / "github").glob("*.yml"))}
MAIN = Bicep.read(AZURE / "main.bicep")
MODES = ("service_bus", "http_trigger")


def parameters(mode: str) -> dict[str, str]:
    """Name and expression of each parameter of a parameter file."""
    lines = (AZURE / f"main.{mode}.bicepparam").read_text().splitlines()
    assert lines[0] == "using 'main.bicep'"
    return dict(re.findall(r"^param (\w+) = (.+)$", "\n".join(lines), re.MULTILINE))


def steps(name: str) -> list[dict[str, Any]]:
    """Every step of every job."""
    jobs = yaml.safe_load(WORKFLOWS[name].read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("mode", MODES)
def test_parameter_files_give_every_parameter_that_has_no_default_and_no_other(mode: str) -> None:
    given, declared = parameters(mode), MAIN.of("param")
    assert set(given) <= set(declared)
    assert {name for name, one in declared.items() if not one.has_default} <= set(given)
    assert given["mode"] == f"'{mode}'"


@pytest.mark.parametrize("mode", MODES)
def test_secret_parameters_come_from_the_environment(mode: str) -> None:
    given = parameters(mode)
    for name, one in MAIN.of("param").items():
        if any("secure()" in decorator for decorator in one.decorators):
            assert re.fullmatch(r"readEnvironmentVariable\('GEOWORKER_\w+'\)", given[name])


def test_the_deployment_sets_what_the_parameter_files_read() -> None:
    wanted = {
        name
        for mode in MODES
        for name in re.findall(r"readEnvironmentVariable\('(\w+)'\)", " ".join(parameters(mode).values()))
    }
    setting = next(step for step in steps("deploy.yml") if "az deployment group create" in step.get("run", ""))
    assert wanted <= set(setting["env"])
    compiling = next(step for step in steps("ci.yml") if "build-params" in step.get("run", ""))
    assert wanted <= set(compiling["env"])
    page = (AZURE / "README.md").read_text()
    assert all(f"export {name}=" in page for name in wanted)


def test_outputs_that_the_deployment_reads_are_declared() -> None:
    text = WORKFLOWS["deploy.yml"].read_text()
    read = set(re.findall(r"jq -r \.(\w+)\.value", text))
    assert read
    assert read <= set(MAIN.of("output"))


def test_variables_and_secrets_are_described() -> None:
    page = (ROOT / "deploy" / "README.md").read_text()
    text = "".join(path.read_text() for path in WORKFLOWS.values())
    used = set(re.findall(r"(?:vars|secrets)\.(\w+)", text))
    assert used
    assert not [name for name in used if f"`{name}`" not in page]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        target
        for path in (*WORKFLOWS.values(), ROOT / ".ci" / "run")
        for target in re.findall(r"\bmake ([\w-]+)", path.read_text())
    }
    assert {"check", "lint-deploy"} <= called
    assert called <= targets


@pytest.mark.parametrize("name", list(WORKFLOWS))
def test_actions_are_pinned_and_jobs_have_a_time_limit_and_few_rights(name: str) -> None:
    workflow = yaml.safe_load(WORKFLOWS[name].read_text())
    for step in steps(name):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"])
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
    assert set(workflow["permissions"].values()) <= {"read", "write"}
    assert [right for right, level in workflow["permissions"].items() if level == "write"] in ([], ["id-token"])


def test_no_credential_of_azure_is_stored() -> None:
    text = "\n".join(line.split("#", 1)[0] for line in WORKFLOWS["deploy.yml"].read_text().splitlines())
    assert not re.search(r"AZURE_CREDENTIALS|client-secret|password", text, re.IGNORECASE)
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"GEOWORKER_API_KEY", "GEOWORKER_CALLBACK_SECRET"}
