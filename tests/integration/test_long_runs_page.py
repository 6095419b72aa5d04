"""The handler of docs/long-runs.md does what the page says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import ErrorInfo
from core.handlers import HandlerRegistry, HandlerSpec
from core.ports import Returned
from core.records import Claim, Progress
from core.stopping import StopReason, StopToken
from infrastructure.inline_executor import HandlerParts, run_claimed
from testing.mock_state_manager import MockStateManager

PAGE = Path(__file__).parents[2] / "docs" / "long-runs.md"

Attempt = Callable[..., Any]


@pytest.fixture
def store() -> MockStateManager:
    manager = MockStateManager()
    manager.create_test_job("job-1", "mosaics")
    manager.create_test_task("task-1", "job-1", "mosaic", max_attempts=10)
    return manager


@pytest.fixture
def attempt(store: MockStateManager, tmp_path: Path) -> Attempt:
    """One attempt of the page's handler, asked to stop after ``stop_after`` tiles."""
    namespace: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), namespace)
    spec = HandlerSpec(task_type="mosaic", handler=namespace["mosaic"])
    parts = HandlerParts(handlers=HandlerRegistry([spec]), checkpoints=store, work_root=tmp_path, services={})
    held: list[Claim] = []

    def run(*, stop_after: int | None = None) -> tuple[Any, list[Progress]]:
        if held:
            store.fail_task(held.pop(), ErrorInfo(type="E", message="m", retryable=True), retry_in=timedelta(0))
        claim = store.claim_task("task-1", worker_id="w", lease=timedelta(seconds=60))
        assert isinstance(claim, Claim)
        held.append(claim)
        stop, seen = StopToken(), []

        def progressed(progress: Progress) -> None:
            seen.append(progress)
            if len(seen) == stop_after:
                stop.request(StopReason.DRAIN)

        return run_claimed(claim, parts, stop, progressed=progressed), seen

    return run


def test_a_stopped_mosaic_goes_on_where_it_was(attempt: Attempt) -> None:
    execution, seen = attempt(stop_after=6)
    assert isinstance(execution, Returned)
    assert execution.result["interrupted"] is True
    assert len(seen) == 6
    execution, seen = attempt()
    assert isinstance(execution, Returned)
    assert execution.result["tiles"] == 16
    assert [progress.done for progress in seen] == list(range(7, 17))  # no tile again
    assert len(json.loads(Path(execution.result["index"]).read_text())) == 16


def test_an_index_that_is_gone_is_made_again_from_the_items(attempt: Attempt) -> None:
    execution, _ = attempt()
    Path(execution.result["index"]).unlink()
    again, seen = attempt()
    assert seen == []  # the tiles are done
    assert Path(again.result["index"]).is_file()
