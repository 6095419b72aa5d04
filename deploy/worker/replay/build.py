"""Does what ``docker build`` would do, instruction by instruction."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import Instruction, Stage, resolve
from roots import IMAGE_ENVIRONMENT, Root, network_environment


@dataclass(slots=True)
class Image:
    """What the last stage leaves: a root, and how to run a process in it."""

    root: Root
    environment: dict[str, str] = field(default_factory=lambda: dict(IMAGE_ENVIRONMENT))
    user: str = "0:0"
    folder: str = "/"
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    healthcheck: Sequence[str] = ()


def build(stages: Sequence[Stage], context: Path, directory: Path, arguments: Mapping[str, str]) -> Image:
    """Build every stage in order and return the last one's image.

    Raises:
        SystemExit: when a step fails.
        ValueError: for an instruction that the replay does not know.
    """
    images: dict[str, Image] = {}
    for stage in stages:
        image = Image(root=Root(directory / stage.name, hide=[_top(context)]))
        builder = _Builder(image=image, images=images, context=context, arguments=arguments)
        for instruction in stage.instructions:
            began = time.monotonic()
            builder.follow(instruction)
            if instruction.name in ("RUN", "COPY"):
                seconds = time.monotonic() - began
                print(f"{stage.name:<8} {seconds:6.1f} s  {instruction.name} {instruction.text[:90]}", flush=True)
        images[stage.name] = image
    return images[stages[-1].name]


def _top(path: Path) -> Path:
    return Path(*path.resolve().parts[:2])


@dataclass(slots=True)
class _Builder:
    """What one stage's instructions are followed with."""

    image: Image
    images: Mapping[str, Image]
    context: Path
    arguments: Mapping[str, str]
    known: dict[str, str] = field(default_factory=dict)

    def follow(self, instruction: Instruction) -> None:
        """Do one instruction."""
        text = resolve(instruction.text, {**self.known, **self.image.environment})
        resolved = Instruction(instruction.name, instruction.flags, text)
        match instruction.name:
            case "RUN":
                _run(instruction, self.image, self.known)
            case "COPY":
                self._copy(resolved)
            case "ARG":
                name, _, default = instruction.text.partition("=")
                self.known[name] = self.arguments.get(name, default)
            case "WORKDIR":
                self.image.folder = text
                (self.image.root.path / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case _:
                _describe(resolved, self.image)

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.words
        stage = instruction.flag("from")
        base = self.images[stage].root.path if stage is not None else self.context
        ignore = () if stage is not None else ("__pycache__", "*.pyc")
        for source in sources:
            self.image.root.copy(base / source.lstrip("/"), target, folder=self.image.folder, ignore=ignore)


def _describe(instruction: Instruction, image: Image) -> None:
    """An instruction that changes what the image says of itself, not its files."""
    match instruction.name:
        case "ENV":
            image.environment |= instruction.pairs
        case "LABEL":
            image.labels |= instruction.pairs
        case "USER":
            image.user = instruction.text
        case "ENTRYPOINT":
            image.entrypoint = _exec_form(instruction)
        case "CMD":
            image.command = _exec_form(instruction)
        case "HEALTHCHECK":
            image.healthcheck = _exec_form(Instruction("CMD", (), instruction.text.removeprefix("CMD").strip()))
        case "EXPOSE" | "STOPSIGNAL":
            pass
        case other:
            raise ValueError(f"the replay does not know {other}; teach it, or write the Dockerfile without it")


def _exec_form(instruction: Instruction) -> Sequence[str]:
    if not instruction.text.startswith("["):
        raise ValueError(f"{instruction.name} must be in exec form, so that signals reach the process")
    return instruction.words


def _pip_cache() -> Path:
    ended = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True)
    folder = Path(ended.stdout.strip())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(instruction: Instruction, image: Image, known: Mapping[str, str]) -> None:
    for name, value in instruction.flags:
        if name != "mount":
            continue
        options = dict(part.split("=", 1) for part in value.split(","))
        if options.get("type") != "cache":
            raise ValueError(f"the replay knows cache mounts only: {value}")
        target = options["target"]
        if target.endswith("/.cache/pip"):
            image.root.bind(_pip_cache(), target)
    environment = {**network_environment(), **image.environment, **known}
    image.root.run(["/bin/sh", "-c", instruction.text], environment, user=image.user, folder=image.folder)
