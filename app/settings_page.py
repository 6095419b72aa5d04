"""`docs/configuration.md`, made from Settings and the catalogue of where each setting counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.configuration import is_secret, missing
from app.settings import OrchestrationMode, Settings
from app.settings_catalogue import CATALOGUE, PLATFORM_VARIABLES, Process, Use

_HEADER = """# Configuration

Every setting is an environment variable, read once when a process starts. `geoworker config check --role worker` prints
what a process would run with, where each value came from, what is missing, and what is set but makes no difference; it
exits with 1 when the process would not start. Secrets are never printed.

This page is made by `make docs` from `app/settings.py` and `app/settings_catalogue.py`.

An empty variable counts as unset. Lists are comma-separated. Sizes and times carry their unit in the name.
"""

_REQUIRED = """
## What must be set

Beyond loopback (`HOST=0.0.0.0`, as in a container) and for each process apart; `geoworker dev` needs nothing.

| process | mode | must be set |
|---|---|---|
"""

_ENTRA = """
`API_KEYS` may be left out when `ENTRA_TENANT_ID` and `ENTRA_AUDIENCE` are set, and `SERVICE_BUS_FQDN` when
`SERVICE_BUS_CONNECTION_STRING` is. With `DATABASE_ENTRA_AUTH=true` the address in `DATABASE_URL` has no password, and
its user is the name of the managed identity. The Function App's triggers read `ServiceBusConnection…` besides (below).
"""

_PLATFORM = """
## Read by the platform or a library

| variable | meaning |
|---|---|
"""


def configuration_page() -> str:
    """The whole page as Markdown."""
    parts = [_HEADER, _REQUIRED.rstrip("\n"), *(f"\n{row}" for row in _required_rows()), "\n", _ENTRA]
    for section, settings in CATALOGUE.items():
        parts.append(f"\n## {section}\n\n| variable | type | default | counts in | meaning |\n|---|---|---|---|---|\n")
        parts.extend(_row(name, use) for name, use in settings.items())
    parts.append(_PLATFORM)
    parts.extend(f"| `{name}` | {_cell(meaning)} |\n" for name, meaning in PLATFORM_VARIABLES.items())
    return "".join(parts)


def _required_rows() -> Iterable[str]:
    for process in (Process.WORKER, Process.ORCHESTRATOR, Process.FUNCTION_APP):
        for mode in (OrchestrationMode.SERVICE_BUS, OrchestrationMode.HTTP_TRIGGER):
            settings = Settings.from_env({}, docker_orchestration_mode=mode, host="0.0.0.0")  # noqa: S104 - as containers do
            names = ["DOCKER_ORCHESTRATION_MODE", *sorted({fault.field for fault in missing(settings, process)})]
            yield f"| {process} | `{mode}` | {', '.join(f'`{name}`' for name in names)} |"


def _row(name: str, use: Use) -> str:
    field = Settings.model_fields[name]
    cells = [f"`{name.upper()}`", _type(field), _default(name, field), _where(use), field.description or ""]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _where(use: Use) -> str:
    groups: dict[frozenset[OrchestrationMode], list[str]] = {}
    for process in Process:
        if process in use.processes:
            groups.setdefault(use.modes_in(process), []).append(str(process))
    return "; ".join(_places(processes, modes) for modes, processes in groups.items())


def _places(processes: Sequence[str], modes: frozenset[OrchestrationMode]) -> str:
    where = "every process" if len(processes) == len(Process) else ", ".join(processes)
    if len(modes) == len(OrchestrationMode):
        return where
    return f"{where} in {' and '.join(f'`{mode}`' for mode in OrchestrationMode if mode in modes)}"


def _type(field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    bounds = _bounds(field.metadata)
    return f"{kind}, {bounds}" if bounds else kind


def _kind(annotation: Any) -> str:
    arguments = [argument for argument in get_args(annotation) if argument not in (NoneType, Ellipsis)]
    origin = get_origin(annotation)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}s"
    if arguments:
        return _kind(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return " or ".join(f"`{member}`" for member in annotation)
    names: dict[Any, str] = {
        SecretStr: "secret",
        bool: "`true` or `false`",
        int: "integer",
        float: "number",
        str: "text",
        Path: "path",
    }
    return names[annotation]


def _bounds(metadata: Sequence[Any]) -> str:
    parts = []
    for one in metadata:
        match one:
            case Ge(ge=low):
                parts.append(f"≥ {low}")
            case Gt(gt=low):
                parts.append(f"> {low}")
            case Le(le=high):
                parts.append(f"≤ {high}")
            case _ if pattern := getattr(one, "pattern", None):
                parts.append(f"`{pattern}`")
            case _:
                pass
    return ", ".join(parts)


def _default(name: str, field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "see meaning"
    value = field.default
    if value is None or value == () or is_secret(name):
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
