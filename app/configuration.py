"""What a process would run with, and what is wrong with it: the matter of ``geoworker config check``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import SecretStr

from app.api.application import authenticators_for
from app.composition import database_conninfo
from app.role import Role
from app.settings import OrchestrationMode, Settings
from app.settings_catalogue import PLATFORM_VARIABLES, Process, entries
from app.transport import transport_for
from core.errors import ConfigurationError, Fault

HIDDEN = "********"

_ROLES = {
    Process.WORKER: Role.WORKER,
    Process.ORCHESTRATOR: Role.ORCHESTRATOR,
    Process.FUNCTION_APP: Role.ORCHESTRATOR,
    Process.DEV: Role.EMBEDDED,
}
_TRIGGER_NAMES = ("ServiceBusConnection", "ServiceBusConnection__fullyQualifiedNamespace")
_LIKENESS = 0.86  # one letter doubled, missing or swapped in a name of ten


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One setting as a process sees it. ``counts``: it makes a difference in this process and mode."""

    name: str
    value: str
    source: str
    counts: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"name": self.name, "value": self.value, "source": self.source, "counts": self.counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every setting, what keeps the process from starting, and what is probably a mistake."""

    process: Process
    mode: OrchestrationMode | None
    settings: Sequence[Shown]
    faults: Sequence[Fault]
    warnings: Sequence[Fault]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "process": self.process,
            "mode": self.mode,
            "settings": [shown.as_dict() for shown in self.settings],
            "faults": [{"name": fault.field, "message": fault.message} for fault in self.faults],
            "warnings": [{"name": fault.field, "message": fault.message} for fault in self.warnings],
        }


def is_secret(name: str) -> bool:
    """Whether a setting must never be shown."""
    annotation = Settings.model_fields[name].annotation
    return SecretStr in _types(annotation)


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def check(environment: Mapping[str, str], process: Process, **overrides: Any) -> Report:
    """What ``process`` would run with in this environment. Connects to nothing.

    ``overrides`` are set beside the environment, as command line options are.
    """
    try:
        settings = Settings.from_env(environment, **overrides)
    except ConfigurationError as error:
        return Report(process=process, mode=None, settings=(), faults=error.faults, warnings=_misspelt(environment))
    mode = settings.docker_orchestration_mode
    shown = [
        Shown(
            name=name.upper(),
            value=_value(settings, name),
            source=_source(name, environment, overrides),
            counts=use.counts(process, mode),
        )
        for _, name, use in entries()
    ]
    return Report(
        process=process,
        mode=mode,
        settings=shown,
        faults=[*missing(settings, process), *_trigger_faults(environment, process, settings)],
        warnings=[*_misspelt(environment), *_idle(shown, process, mode)],
    )


def missing(settings: Settings, process: Process) -> Sequence[Fault]:
    """What keeps ``process`` from starting with these settings, all at once; the same rules that start-up applies."""
    rules: list[Callable[[], object]] = [
        lambda: transport_for(settings, _ROLES[process]),
        lambda: authenticators_for(settings),
    ]
    if process is not Process.DEV:
        rules.append(lambda: database_conninfo(settings))
    if process is not Process.FUNCTION_APP:  # the Functions host listens, and asks for its keys
        rules.append(settings.require_authentication)
    faults: list[Fault] = []
    for rule in rules:
        try:
            rule()
        except ConfigurationError as error:
            faults.extend(fault for fault in error.faults if fault not in faults)
    return faults


def _trigger_faults(environment: Mapping[str, str], process: Process, settings: Settings) -> Sequence[Fault]:
    """The host's triggers have a connection of their own; it must be there and name the namespace that we send to."""
    if process is not Process.FUNCTION_APP:
        return []
    from app.function_app import has_queue_triggers

    if not has_queue_triggers(settings):
        return []
    if not any(environment.get(name) for name in _TRIGGER_NAMES):
        return [Fault(_TRIGGER_NAMES[1], "must be set with SERVICE_BUS_FQDN: the triggers of the queues listen there")]
    listens, sends = environment.get(_TRIGGER_NAMES[1]), environment.get("SERVICE_BUS_FQDN")
    if listens and sends and listens.lower() != sends.lower():
        return [Fault(_TRIGGER_NAMES[1], f"is {listens}, but SERVICE_BUS_FQDN is {sends}: triggers would never fire")]
    return []


def _misspelt(environment: Mapping[str, str]) -> Sequence[Fault]:
    known = {name.upper() for name in Settings.model_fields}
    unset = sorted(known - {name.upper() for name in environment})
    found = []
    for name in sorted(environment):
        if name.upper() in known or name in PLATFORM_VARIABLES:
            continue
        like = difflib.get_close_matches(name.upper(), unset, n=1, cutoff=_LIKENESS)
        if like:
            found.append(Fault(name, f"is no setting; {like[0]} is, and is not set"))
    return found


def _idle(shown: Sequence[Shown], process: Process, mode: OrchestrationMode) -> Sequence[Fault]:
    return [
        Fault(one.name, f"is set, but makes no difference in a {process} in {mode} mode")
        for one in shown
        if one.source == "environment" and not one.counts
    ]


def _source(name: str, environment: Mapping[str, str], overrides: Mapping[str, Any]) -> str:
    if name in overrides:
        return "option"
    given = environment.get(name.upper(), environment.get(name))
    return "environment" if given is not None and given.strip() else "default"


def _value(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if value is None or value == ():
        return "-"
    if is_secret(name):
        return HIDDEN
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
