"""The Bicep files: syntax, symbols, modules, pinned versions, rights, secrets, and agreement with the other layers."""

from __future__ import annotations

import json
import re

import pytest
from bicep_support import FOLDER, Bicep, Declaration, literal, properties, text, walk

from app.settings import Settings
from testing.emulator.config import parse_duration

FILES = {path.relative_to(FOLDER).as_posix(): Bicep.read(path) for path in sorted(FOLDER.rglob("*.bicep"))}
MAIN = FILES["main.bicep"]
ROLES = {
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": "Azure Service Bus Data Sender",
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": "Azure Service Bus Data Receiver",
    "090c5cfd-751d-490a-894a-3ce6f1109419": "Azure Service Bus Data Owner",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
}

each_file = pytest.mark.parametrize("name", list(FILES))


@each_file
def test_the_grammar_fits(name: str) -> None:
    assert not FILES[name].syntax_faults()


@each_file
def test_every_symbol_is_declared_and_every_parameter_and_variable_is_used(name: str) -> None:
    assert not FILES[name].symbol_faults()


@each_file
def test_versions_of_the_api_are_pinned_to_stable_ones(name: str) -> None:
    for _, full in FILES[name].resource_types():
        assert re.fullmatch(r"Microsoft\.[A-Za-z]+(/[A-Za-z]+)+@\d{4}-\d{2}-\d{2}", full), full


def test_one_version_of_each_resource_type() -> None:
    versions: dict[str, set[str]] = {}
    for file in FILES.values():
        for _, full in file.resource_types():
            kind, _, version = full.partition("@")
            versions.setdefault(kind.lower(), set()).add(version)
    assert not {kind: found for kind, found in versions.items() if len(found) > 1}


def test_modules_get_their_parameters_and_give_the_outputs_that_are_read() -> None:
    used = set()
    for module in MAIN.of("module").values():
        file = FILES[module.type]
        used.add(module.type)
        wanted = file.of("param")
        given = set(properties(properties(module.node)["params"]))
        assert given <= set(wanted), f"{module.name}: {given - set(wanted)} is no parameter"
        lacking = {name for name, param in wanted.items() if not param.has_default} - given
        assert not lacking, f"{module.name} lacks {lacking}"
        for output in re.findall(rf"\b{module.name}\.outputs\.(\w+)", MAIN.path.read_text()):
            assert output in file.of("output"), f"{module.name} has no output {output}"
    assert used | {"main.bicep"} == set(FILES)


@each_file
def test_outputs_and_settings_hold_no_secret(name: str) -> None:
    file = FILES[name]
    secure = {
        one.name for one in file.of("param").values() if "@secure()" in " ".join(one.decorators) or is_secure(one)
    }
    for output in file.of("output").values():
        assert not re.search(r"listKeys|Key\b|ConnectionString|[Ss]ecret|[Pp]assword", text(output.node)), output.name
        assert not secure & {text(node) for node in walk(output.body) if node.type == "identifier"}
    if name == "main.bicep":
        for variable in file.of("var").values():
            assert not secure & {text(node) for node in walk(variable.body) if node.type == "identifier"}


def is_secure(parameter: Declaration) -> bool:
    return any(decorator.strip().lstrip("@").startswith("secure(") for decorator in parameter.decorators)


@each_file
def test_secret_parameters_are_secure_and_have_no_default(name: str) -> None:
    for parameter in FILES[name].of("param").values():
        if re.search(r"(apiKey|callbackSecret|[pP]assword)$", parameter.name):
            assert is_secure(parameter), parameter.name
            assert not parameter.has_default


def assignments() -> list[tuple[str, Declaration, str, str]]:
    """File, declaration, role and scope of every role assignment."""
    found = []
    for name, file in FILES.items():
        variables = {one.name: literal(one.body) for one in file.of("var").values()}
        for declaration, full in file.resource_types():
            if full.startswith("Microsoft.Authorization/roleAssignments@"):
                given = properties(declaration.node)
                role = properties(given["properties"])["roleDefinitionId"]
                ids = [variables[text(node)] for node in walk(role) if text(node) in variables]
                assert len(ids) == 1
                found.append((name, declaration, ROLES[str(ids[0])], text(given["scope"])))
    return found


def test_roles_are_given_by_queue_by_container_and_by_secret() -> None:
    scopes = {
        "Azure Service Bus": {"jobs", "tasks", "longRunning"},
        "Storage Blob": {"sources", "outputs", "host"},
        "Key Vault": {"apiKeySecret", "callbackSecretSecret"},
        "AcrPull": {"registry"},
    }
    for _, declaration, role, scope in assignments():
        allowed = next(names for start, names in scopes.items() if role.startswith(start))
        assert scope in allowed, f"{declaration.name}: {role} on {scope}"


def test_each_process_has_the_rights_on_queues_that_its_code_uses() -> None:
    rights = {
        (who, right, scope)
        for name, declaration, role, scope in assignments()
        if name == "modules/servicebus.bicep"
        for who in re.findall(r"(worker|function|scaler)PrincipalId", text(declaration.node))[:1]
        for right in [role.rsplit(" ", 1)[1]]
    }
    assert rights == {
        ("worker", "Receiver", "longRunning"),
        ("worker", "Sender", "longRunning"),
        ("worker", "Sender", "jobs"),
        ("function", "Receiver", "jobs"),
        ("function", "Receiver", "tasks"),
        ("function", "Sender", "jobs"),
        ("function", "Sender", "tasks"),
        ("function", "Sender", "longRunning"),
        ("scaler", "Owner", "longRunning"),
    }


def test_in_http_trigger_mode_the_worker_has_no_role_on_service_bus() -> None:
    module = MAIN.of("module")["serviceBus"]
    given = text(properties(properties(module.node)["params"])["workerPrincipalId"])
    assert given == "usesServiceBus ? identities.outputs.workerPrincipalId : ''"
    assert text(MAIN.of("var")["usesServiceBus"].body) == "mode == 'service_bus'"
    assert module.condition == "(hasNamespace)"
    assert text(MAIN.of("var")["hasNamespace"].body) == "usesServiceBus || functionQueues"
    for name, declaration, role, _ in assignments():
        if role.startswith("Azure Service Bus"):
            assert name == "modules/servicebus.bicep", declaration.name
            if "workerPrincipalId" in text(declaration.node):
                assert declaration.condition == "(!empty(workerPrincipalId))"
    namespaces = [
        name for name, file in FILES.items() for _, full in file.resource_types() if "ServiceBus/namespaces@" in full
    ]
    assert namespaces == ["modules/servicebus.bicep"]


def test_queues_are_the_same_in_azure_in_the_emulator_and_in_the_settings() -> None:
    bicep = FILES["modules/servicebus.bicep"]
    queue = properties(bicep.of("var")["queueProperties"].body)
    azure = {
        literal(properties(one.node)["name"]): (literal(queue["lockDuration"]), int(text(queue["maxDeliveryCount"])))
        for one, full in bicep.resource_types()
        if full.startswith("Microsoft.ServiceBus/namespaces/queues@")
    }
    config = json.loads((FOLDER.parent / "compose" / "Config.json").read_text())
    emulator = {
        one["Name"]: (one["Properties"]["LockDuration"], one["Properties"]["MaxDeliveryCount"])
        for one in config["UserConfig"]["Namespaces"][0]["Queues"]
    }
    settings = Settings.from_env({})
    names = {settings.jobs_queue, settings.functions_queue, settings.docker_queue}
    assert azure == emulator == dict.fromkeys(names, ("PT5M", 10))


def test_the_lock_outlives_several_heartbeats() -> None:
    queue = properties(FILES["modules/servicebus.bicep"].of("var")["queueProperties"].body)
    lock = parse_duration(literal(queue["lockDuration"]))
    assert lock.total_seconds() >= 3 * Settings.from_env({}).heartbeat_seconds


def test_outputs_go_to_a_container_that_is_there_and_may_be_written() -> None:
    container = literal(properties(MAIN.of("var")["commonSettings"].body)["OUTPUT_URL"])
    storage = FILES["modules/storage.bicep"]
    assert container == f"az://{literal(properties(storage.of('resource')['outputs'].node)['name'])}"
    writers = {
        text(one.node).split("guid(")[1].split(",")[1].strip()
        for _, one, role, scope in assignments()
        if role == "Storage Blob Data Contributor" and scope == "outputs"
    }
    assert writers == {"workerPrincipalId", "functionPrincipalId"}


def test_every_queue_is_watched_for_dead_letters() -> None:
    bicep = FILES["modules/servicebus.bicep"]
    alert = text(bicep.of("resource")["deadLetters"].node)
    assert "'DeadletteredMessages'" in alert
    queues = [one.name for one, full in bicep.resource_types() if "/queues@" in full]
    assert re.search(rf"values: \[{', '.join(f'{name}.name' for name in queues)}\]", alert)


def test_one_worker_is_the_default() -> None:
    assert text(MAIN.of("param")["workerInstances"].body) == "1"


def test_the_mount_is_where_the_image_and_the_settings_say() -> None:
    dockerfile = (FOLDER.parent / "worker" / "Dockerfile").read_text()
    path = re.search(r"ETL_MOUNT=(\S+)", dockerfile)
    assert path is not None
    assert literal(properties(MAIN.of("var")["workerCommonSettings"].body)["ETL_MOUNT"]) == path.group(1)
    for name in ("modules/worker-appservice.bicep", "modules/worker-containerapps.bicep"):
        assert f"mountPath: '{path.group(1)}'" in FILES[name].path.read_text()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("param a string\noutput b string = c", "c is not declared"),
        ("param a string\noutput b string = 'x'", "param a is not used"),
        ("var a = [for b in ['x']: c]\noutput d array = a", "c is not declared"),
        ("var a = 'x'", "var a is not used"),
    ],
)
def test_the_checks_find_what_they_are_for(source: str, fault: str) -> None:
    assert any(fault in one for one in Bicep.parse(source).symbol_faults())


def test_broken_syntax_is_found() -> None:
    assert Bicep.parse("resource a 'x@y' = {\n  name: \n").syntax_faults()
