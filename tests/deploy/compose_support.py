"""Reads compose.yaml with its anchors and merges, and with the variables of an environment file put in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy"
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


class MissingVariable(Exception):
    """``${NAME:?message}`` of a variable that is not set."""


def environment_file(path: Path) -> dict[str, str]:
    """``NAME=value`` lines."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def substitute(value: Any, variables: dict[str, str]) -> Any:
    """Variables put in, as compose does it. Raises MissingVariable."""
    if isinstance(value, dict):
        return {key: substitute(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [substitute(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if found.group(0) == "$$":
            return "$"
        name, how, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if how == ":-":
            return rest or ""
        if how == ":?":
            raise MissingVariable(name)
        return ""

    return _VARIABLE.sub(put, value)


def raw() -> dict[str, Any]:
    """The file, anchors resolved, variables not."""
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def services(profile: str, variables: dict[str, str]) -> dict[str, Any]:
    """The services of a profile."""
    return {
        name: substitute(service, variables)
        for name, service in raw()["services"].items()
        if profile in service.get("profiles", [])
    }
