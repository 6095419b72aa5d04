"""How a child process is told what to run handlers with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from core.errors import ConfigurationError, Fault
from infrastructure.inline_executor import HandlerParts
from infrastructure.telemetry.tracing import TracingSpec

Bootstrap = Callable[[Mapping[str, Any]], AbstractContextManager[HandlerParts]]
"""Called once in the child with the spec's arguments; entered before the first task, left when the child retires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What a child process starts with. Travels to it on a private socket, never on a command line.

    Args:
        bootstrap: ``package.module:function``, a :data:`Bootstrap`.
        arguments: JSON-ready, handed to it.
        preload: modules to import before the child is ready (``rasterio``); one that is missing is no fault.
        log_level: the least level of the records that the child forwards.
        tracing: where the child's spans go; the same as its parent's.
    """

    bootstrap: str
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    preload: tuple[str, ...] = ()
    log_level: int = 20
    tracing: TracingSpec = field(default_factory=TracingSpec)


def resolve(name: str) -> Bootstrap:
    """The function that ``package.module:function`` names.

    Raises:
        ConfigurationError: when there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            "child process", [Fault("bootstrap", f"must name package.module:function ({error})", name)]
        ) from error
    if not callable(function):
        raise ConfigurationError("child process", [Fault("bootstrap", "must name a function", name)])
    return function  # type: ignore[no-any-return]
