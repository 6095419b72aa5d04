"""The real worker process with two more handlers: one that tells when it started, and one that stays until stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from app import child, composition
from app.cli import main
from core.docker_context import DockerTaskContext
from core.handlers import HandlerRegistry, HandlerSpec
from infrastructure.inline_executor import HandlerParts
from services.registry import handler_registry


def clock(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    return {"success": True, "started_at": time.time()}


def stay(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    while not context.should_stop():
        time.sleep(0.2)
    return {"success": True, "interrupted": True}


def handlers() -> HandlerRegistry:
    more = {
        "benchmark_clock": HandlerSpec(task_type="benchmark_clock", handler=clock),
        "benchmark_stay": HandlerSpec(task_type="benchmark_stay", handler=stay),
    }
    return HandlerRegistry([*handler_registry().values(), *more.values()])


def parts(told: Mapping[str, Any]) -> AbstractContextManager[HandlerParts]:
    """The bootstrap of this worker's children."""
    child.handler_registry = handlers  # type: ignore[attr-defined]
    return child.parts(told)


if __name__ == "__main__":
    composition.handler_registry = handlers  # type: ignore[attr-defined]
    child.BOOTSTRAP = "tests.benchmarks.clock_worker:parts"
    main()
