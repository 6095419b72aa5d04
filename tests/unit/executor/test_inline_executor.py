from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from core.docker_context import DockerTaskContext
from core.errors import ClaimLost, PermanentError, StoreUnavailable, TransientError
from core.handlers import HandlerFunction, HandlerRegistry, HandlerSpec
from core.ports import Execution, Raised, Returned
from core.records import Claim, Progress
from core.stopping import StopReason, StopToken
from core.work_directories import task_directory
from infrastructure.checkpoint_manager import CheckpointManager
from infrastructure.handler_call import MAX_RESULT_BYTES
from infrastructure.inline_executor import HandlerParts, InlineExecutor
from testing.mock_state_manager import MockStateManager


class Size(BaseModel):
    pixels: int


@pytest.fixture
def run(store: MockStateManager, next_claim: Callable[[], Claim], tmp_path: Path) -> Callable[..., Execution]:
    def run_handler(
        handler: HandlerFunction,
        *,
        model: type[BaseModel] | None = None,
        stop: StopToken | None = None,
        deadline: datetime | None = None,
    ) -> Execution:
        spec = HandlerSpec(task_type="any", handler=handler, parameters=model)
        parts = HandlerParts(handlers=HandlerRegistry([spec]), checkpoints=store, work_root=tmp_path, services={"a": 1})
        executor = InlineExecutor(parts)
        return executor.execute(next_claim(), stop=stop or StopToken(), deadline=deadline)

    return run_handler


Run = Callable[..., Execution]


def raised(execution: Execution) -> Raised:
    assert isinstance(execution, Raised), execution
    return execution


def raises(error: BaseException) -> HandlerFunction:
    def handler(params: Any, context: DockerTaskContext) -> Any:
        raise error

    return handler


def returns(value: Any) -> HandlerFunction:
    return lambda params, context: value


def test_both_shapes_of_handlers_run(run: Run) -> None:
    def old(params: dict[str, Any]) -> dict[str, Any]:
        return {"success": True, "task": params["_task_id"], "attempt": params["_docker_context"].attempt}

    def new(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
        return {"success": True, "task": context.task_id, "service": context.services["a"]}

    assert run(old) == Returned(result={"success": True, "task": "task-1", "attempt": 1})
    assert run(new) == Returned(result={"success": True, "task": "task-1", "service": 1})


def test_the_work_directory_is_made_when_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    assert isinstance(run(returns({"success": True})), Returned)
    assert list(tmp_path.iterdir()) == []

    def write(params: Any, context: DockerTaskContext) -> dict[str, Any]:
        (context.work_dir / "scratch").touch()
        return {"success": True}

    run(write)
    assert (tmp_path / task_directory("task-1") / "scratch").exists()


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (TransientError("later"), True),
        (PermanentError("never", code="NEVER"), False),
        (ValueError("bad value"), False),
        (KeyError("missing"), False),
        (ZeroDivisionError("no"), False),
        (OSError("disk"), True),
        (TimeoutError("slow"), True),
        (ConnectionResetError("reset"), True),
        (MemoryError(), True),
        (RuntimeError("who knows"), True),
        (StoreUnavailable("database away"), True),
    ],
)
def test_what_is_raised_is_retried_when_that_can_help(run: Run, error: Exception, retryable: bool) -> None:
    info = raised(run(raises(error))).error
    assert info.retryable is retryable
    assert info.type == type(error).__name__


def test_retry_after_is_kept(run: Run) -> None:
    execution = raised(run(raises(TransientError("busy", retry_after=timedelta(seconds=90)))))
    assert execution.retry_after == timedelta(seconds=90)


def test_the_cause_is_recorded_and_redacted(run: Run) -> None:
    def handler(params: Any, context: DockerTaskContext) -> Any:
        try:
            raise OSError("https://x/y?sig=topsecret&sv=1")
        except OSError as error:
            raise PermanentError("cannot read", code="UNREADABLE", details={"password": "topsecret"}) from error

    info = raised(run(handler)).error
    assert info.cause is not None
    assert info.cause.startswith("OSError")
    assert "topsecret" not in str(info.as_dict())
    assert info.code == "UNREADABLE"


def test_claim_lost_reaches_the_machine(run: Run) -> None:
    with pytest.raises(ClaimLost):
        run(raises(ClaimLost("task-1", 1)))


def test_parameters_that_do_not_fit_name_every_fault(run: Run) -> None:
    info = raised(run(returns({"success": True}), model=Size)).error
    assert (info.type, info.retryable) == ("InvalidInput", False)
    assert info.details["faults"] == [{"field": "pixels", "message": "Field required", "given": None}]


def test_reported_failure_is_a_failure(run: Run) -> None:
    info = raised(run(returns({"success": False, "error": "no overlap", "code": "NO_OVERLAP", "seen": 3}))).error
    assert (info.message, info.code, info.retryable) == ("no overlap", "NO_OVERLAP", False)
    assert info.details["result"]["seen"] == 3
    assert raised(run(returns({"success": False, "retryable": True}))).error.retryable
    assert not raised(run(returns({"success": False, "retryable": "yes"}))).error.retryable


async def _coroutine() -> dict[str, Any]:
    return {"success": True}


@pytest.mark.parametrize(
    "value",
    [None, 3, [], "done", {}, {"success": "true"}, {"success": 1}, {"success": True, "x": float("inf")},
     {"success": True, "x": object()}, {"success": True, ("a",): 1}, {"success": True, "x": {1, "a"}},
     {"success": True, "x": "x" * MAX_RESULT_BYTES}],
    ids=["none", "number", "list", "text", "empty", "text-success", "number-success", "infinity", "object",
         "tuple-key", "mixed-set", "too-large"],
)  # fmt: skip
def test_a_broken_contract_is_a_permanent_failure(run: Run, value: Any) -> None:
    info = raised(run(returns(value))).error
    assert (info.type, info.retryable) == ("ContractViolation", False)


def test_a_coroutine_is_no_result(run: Run) -> None:
    coroutine = _coroutine()
    info = raised(run(returns(coroutine))).error
    assert "coroutine" in info.message
    asyncio.run(coroutine)


def test_plain_forms_of_common_values(run: Run) -> None:
    import numpy as np

    execution = run(
        returns(
            {
                "success": True,
                "count": np.int64(3),
                "mean": np.float32(0.5),
                "path": Path("/a/b"),
                "at": datetime(2026, 1, 1, tzinfo=UTC),
                "bands": {3, 1, 2},
                "shape": (2, 3),
            }
        )
    )
    assert execution == Returned(
        result={
            "success": True,
            "count": 3,
            "mean": 0.5,
            "path": "/a/b",
            "at": "2026-01-01T00:00:00+00:00",
            "bands": [1, 2, 3],
            "shape": [2, 3],
        }
    )


def test_a_deadline_asks_the_handler_to_stop(run: Run) -> None:
    stop = StopToken()

    def wait(params: Any, context: DockerTaskContext) -> dict[str, Any]:
        assert context.stop.wait(10)
        return context.interrupted()

    execution = run(wait, stop=stop, deadline=datetime.now(UTC) + timedelta(milliseconds=20))
    assert isinstance(execution, Returned)
    assert stop.reason is StopReason.TIMEOUT


def test_buffered_items_are_saved_however_the_handler_ends(run: Run, store: MockStateManager) -> None:
    def mark_then_fail(params: Any, context: DockerTaskContext) -> Any:
        context.checkpoint.items(1).mark("a")
        raise TransientError("halfway")

    def count(params: Any, context: DockerTaskContext) -> dict[str, Any]:
        return {"success": True, "done": len(context.checkpoint.items(1))}  # type: ignore[arg-type]

    assert isinstance(run(mark_then_fail), Raised)
    assert run(count) == Returned(result={"success": True, "done": 1})


def test_a_handler_may_make_its_own_checkpoint_manager_the_older_way(run: Run, store: MockStateManager) -> None:
    def first_attempt(params: dict[str, Any]) -> Any:
        checkpoint = CheckpointManager(params["_task_id"], params["_docker_context"].task_repo)
        assert not checkpoint.should_skip(1)
        checkpoint.save(1, {"source": "a.tif"})
        checkpoint.items(2).mark("tile-1")
        raise TransientError("halfway")

    def second_attempt(params: dict[str, Any], context: DockerTaskContext) -> dict[str, Any]:
        mine = CheckpointManager(context.task_id, context.task_repo)
        assert mine.should_skip(1)
        assert "tile-1" in mine.items(2)
        mine.save(2, {"tiles": 1})
        assert context.checkpoint.should_skip(2)  # two names of one checkpoint
        context.checkpoint.save(3)
        return {"success": True, "source": mine.get_data("source"), "tiles": mine.get_data("tiles")}

    assert isinstance(run(first_attempt), Raised)
    assert run(second_attempt) == Returned(result={"success": True, "source": "a.tif", "tiles": 1})


def test_a_checkpoint_is_made_for_no_other_task_and_from_nothing_else(run: Run) -> None:
    def another_task(params: Any, context: DockerTaskContext) -> Any:
        CheckpointManager("task-2", context.task_repo)

    def another_repository(params: Any, context: DockerTaskContext) -> Any:
        CheckpointManager(context.task_id, object())  # type: ignore[arg-type]

    error = raised(run(another_task)).error
    assert (error.type, error.details["faults"][0]["field"]) == ("InvalidInput", "task_id")
    assert "context.task_repo" in raised(run(another_repository)).error.message


def test_a_retry_knows_how_the_attempt_before_it_failed(run: Run) -> None:
    seen: list[Any] = []

    def fail(params: Any, context: DockerTaskContext) -> Any:
        seen.append(context.previous_error)
        raise TransientError("halfway")

    run(fail)
    run(fail)
    first, second = seen
    assert first is None
    assert (second.type, second.message) == ("Crash", "crashed")  # as it is recorded


def test_progress_that_cannot_be_saved_does_not_stop_the_work(
    run: Run, store: MockStateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(claim: Claim, progress: Progress) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "save_progress", away)

    def report(params: Any, context: DockerTaskContext) -> dict[str, Any]:
        context.report_progress(50, "half")
        return {"success": True}

    assert isinstance(run(report), Returned)
