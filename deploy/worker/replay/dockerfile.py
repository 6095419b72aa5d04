"""Reads a Dockerfile into stages of instructions with their variables resolved, as far as this project's uses them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_FLAG = re.compile(r"--([\w-]+)=(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its flags (``--from=build``), and the rest of its line, joined over continuations."""

    name: str
    flags: Sequence[tuple[str, str]]
    text: str

    def flag(self, name: str) -> str | None:
        """The value of a flag, or None."""
        return next((value for found, value in self.flags if found == name), None)

    @property
    def words(self) -> Sequence[str]:
        """The text as words: of a JSON array, or of a shell line."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)

    @property
    def pairs(self) -> Mapping[str, str]:
        """``NAME=value`` words as a mapping."""
        return dict(word.split("=", 1) for word in self.words)


@dataclass(slots=True)
class Stage:
    """``FROM base AS name`` and what follows it."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def read(path: Path, arguments: Mapping[str, str] | None = None) -> list[Stage]:
    """The stages of a Dockerfile; ``arguments`` are build arguments.

    Raises:
        ValueError: for an instruction before the first FROM that is no ARG.
    """
    stages: list[Stage] = []
    known: dict[str, str] = {}
    for entry in DockerfileParser(path=str(path), cache_content=True).structure:
        name, value = entry["instruction"], entry["value"]
        if name == "COMMENT":
            continue
        if name == "ARG" and not stages:
            key, _, default = value.partition("=")
            known[key] = (arguments or {}).get(key, default)
        elif name == "FROM":
            base, _, alias = resolve(value, known).partition(" AS ")
            stages.append(Stage(name=alias or str(len(stages)), base=base))
        elif not stages:
            raise ValueError(f"{path}: {name} before FROM")
        else:
            stages[-1].instructions.append(_instruction(name, value))
    return stages


def resolve(text: str, variables: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced by their values; unknown ones are empty, as Docker has it."""
    return _VARIABLE.sub(lambda found: variables.get(found.group(1) or found.group(2), ""), text)


def _instruction(name: str, value: str) -> Instruction:
    flags: list[tuple[str, str]] = []
    rest = value
    if name in ("RUN", "COPY", "ADD", "HEALTHCHECK"):
        while found := _FLAG.match(rest):
            flags.append((found.group(1), found.group(2)))
            rest = rest[found.end() :]
    return Instruction(name=name, flags=tuple(flags), text=rest.strip())
