from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos_harness import Harness

from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.executor import ExecutorOptions, ProcessExecutor
from infrastructure.process_executor.supervision import SupervisionRules
from infrastructure.watchdogs import DiskWatch, MemoryWatch


@pytest.fixture(scope="session")
def make_executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ProcessExecutor]]:
    with ExitStack() as stack:

        def make(
            *,
            memory: MemoryWatch | None = None,
            disk: DiskWatch | None = None,
            arguments: Mapping[str, Any] | None = None,
            root: Path | None = None,
            preload: tuple[str, ...] = (),
            rules: SupervisionRules | None = None,
            **options: Any,
        ) -> ProcessExecutor:
            root = root or tmp_path_factory.mktemp("executor")
            executor = ProcessExecutor(
                ChildSpec(
                    bootstrap="chaos_handlers:parts",
                    arguments={"root": str(root), **(arguments or {})},
                    preload=preload,
                ),
                replace(ExecutorOptions(rules=rules or SupervisionRules(grace=0.5)), **options),
                memory=memory,
                disk=disk,
            )
            stack.callback(executor.close)
            return executor

        yield make


@pytest.fixture(scope="session")
def shared_executor(make_executor: Callable[..., ProcessExecutor]) -> ProcessExecutor:
    executor = make_executor()
    executor.start()
    return executor


@pytest.fixture
def harness(shared_executor: ProcessExecutor) -> Iterator[Harness]:
    """The session's executor; whatever the test did to its child, the next task runs, within a second."""
    yield Harness(shared_executor)
    began = time.monotonic()
    execution = Harness(shared_executor).run("good")
    assert execution.result["success"] is True  # type: ignore[union-attr]
    assert time.monotonic() - began < 5.0
    assert os.getpid() != execution.result["pid"]  # type: ignore[union-attr]
