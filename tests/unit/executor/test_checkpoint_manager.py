from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ClaimLost, ErrorInfo, InvalidInput, StoreUnavailable
from core.records import Claim
from core.stopping import StopReason, StopToken
from infrastructure.checkpoint_manager import ArtifactInvalid, CheckpointManager
from infrastructure.item_log import BufferedItemLog
from testing.mock_state_manager import MockStateManager

NextClaim = Callable[[], Claim]


@pytest.fixture
def resume(store: MockStateManager, next_claim: NextClaim) -> Callable[[], CheckpointManager]:
    return lambda: CheckpointManager(next_claim(), store, StopToken())


Resume = Callable[[], CheckpointManager]


def test_a_completed_phase_is_skipped_by_the_next_attempt_and_its_data_is_there(resume: Resume) -> None:
    first = resume()
    assert not first.should_skip(1)
    first.save(1, {"source": "a.tif"})
    first.save(2, {"bands": 3})
    second = resume()
    assert [second.should_skip(phase) for phase in (1, 2, 3)] == [True, True, False]
    assert (second.get_data("source"), second.get_data("bands")) == ("a.tif", 3)
    assert second.get_data("nothing", "default") == "default"
    assert second.phase == 2


def test_a_cursor_never_completes_its_phase_and_ends_with_it(resume: Resume) -> None:
    resume().save_cursor({"row": 512})
    second = resume()
    assert not second.should_skip(1)
    assert second.cursor == {"row": 512}
    second.save(1)
    assert resume().cursor is None


def test_phases_do_not_go_back(resume: Resume) -> None:
    checkpoint = resume()
    checkpoint.save(2)
    checkpoint.save(2, {"again": True})
    with pytest.raises(InvalidInput, match="phase 2 is already complete"):
        checkpoint.save(1)
    with pytest.raises(InvalidInput):
        checkpoint.save(0)


def test_an_artifact_that_fails_its_check_saves_nothing(resume: Resume, tmp_path: Path) -> None:
    checkpoint = resume()
    with pytest.raises(ArtifactInvalid, match="phase 1"):
        checkpoint.save(1, {"done": True}, lambda: False)
    with pytest.raises(ArtifactInvalid, match=r"missing\.tif"):
        checkpoint.save(1, artifacts=[tmp_path / "missing.tif"])
    assert not checkpoint.should_skip(1)
    assert not resume().should_skip(1)
    checkpoint = resume()
    checkpoint.save(1, {"done": True}, lambda: True)
    assert resume().should_skip(1)


@pytest.mark.parametrize("damage", ["gone", "shorter", "same size"])
def test_a_phase_whose_artifact_is_gone_or_different_is_done_again_and_all_after_it(
    resume: Resume, tmp_path: Path, damage: str
) -> None:
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    kept.write_bytes(b"k" * 5000)
    lost.write_bytes(b"l" * 5000)
    first = resume()
    first.items(1).mark("a")
    first.save(1, artifacts=[kept])
    first.items(2).mark("b")
    first.save(2, artifacts=[lost])
    first.items(3).mark("c")
    first.save(3, {"three": 3})
    match damage:
        case "gone":
            lost.unlink()
        case "shorter":
            lost.write_bytes(b"l" * 4999)
        case "same size":
            lost.write_bytes(b"l" * 4999 + b"x")
    second = resume()
    assert [second.should_skip(phase) for phase in (1, 2, 3)] == [True, False, False]
    # What the lost phases had finished is forgotten with them, for this attempt and for the next.
    assert [len(second.items(phase)) for phase in (1, 2, 3)] == [1, 0, 0]
    third = resume()
    assert [len(third.items(phase)) for phase in (1, 2, 3)] == [1, 0, 0]
    assert third.phase == 1


def test_items_of_a_lost_phase_are_forgotten_even_when_they_are_asked_for_first(resume: Resume, tmp_path: Path) -> None:
    artifact = tmp_path / "mosaic"
    artifact.write_bytes(b"x")
    first = resume()
    first.items(1).mark("tile")
    first.save(1, artifacts=[artifact])
    artifact.unlink()
    assert "tile" not in resume().items(1)


def test_an_unknown_schema_version_starts_over(store: MockStateManager, resume: Resume, next_claim: NextClaim) -> None:
    checkpoint = resume()
    checkpoint.items(1).mark("a")
    checkpoint.save(1)
    claim = next_claim()
    store.save_checkpoint(claim, replace(store.load_checkpoint(claim), schema_version=99))
    again = CheckpointManager(claim, store, StopToken())
    assert not again.should_skip(1)
    assert len(again.items(1)) == 0


def test_a_stale_attempt_saves_nothing(resume: Resume) -> None:
    stale = resume()
    stale.save(1)
    current = resume()
    current.save(2, {"owner": "current"})
    for write in (
        lambda: stale.save(3, {"owner": "stale"}),
        lambda: stale.save_cursor({"row": 1}),
        stale.reset,
        lambda: (stale.items(2).mark("x"), stale.flush()),
    ):
        with pytest.raises(ClaimLost):
            write()
    last = resume()
    assert (last.phase, last.get_data("owner"), len(last.items(2))) == (2, "current", 0)


def test_reset_forgets_everything(resume: Resume) -> None:
    checkpoint = resume()
    checkpoint.items(1).mark("a")
    checkpoint.save(1, {"x": 1})
    checkpoint.items(2).mark("b")
    checkpoint.reset()
    assert (checkpoint.phase, checkpoint.get_data("x")) == (0, None)
    with checkpoint:
        pass
    again = resume()
    assert (again.phase, len(again.items(1)), len(again.items(2))) == (0, 0, 0)


def test_stop_requests(store: MockStateManager, next_claim: NextClaim) -> None:
    stop = StopToken()
    checkpoint = CheckpointManager(next_claim(), store, stop)
    assert not checkpoint.should_stop()
    assert not checkpoint.save_and_stop_if_requested(1, {"a": 1})
    stop.request(StopReason.MEMORY)
    assert checkpoint.is_shutdown_requested()
    assert checkpoint.save_and_stop_if_requested(2)
    assert checkpoint.phase == 2


def test_an_event_of_ones_own_is_listened_to(store: MockStateManager, next_claim: NextClaim) -> None:
    stop = StopToken()
    checkpoint = CheckpointManager(next_claim(), store, stop)
    event = threading.Event()
    checkpoint.set_shutdown_event(event)
    assert not checkpoint.should_stop()
    event.set()
    assert checkpoint.should_stop()
    assert stop.reason is StopReason.DRAIN


class Watched:
    """A store whose saves of items can be waited for and made to fail."""

    def __init__(self, store: MockStateManager) -> None:
        self._store = store
        self.saves: list[dict[str, Any]] = []
        self.saved = threading.Event()
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def save_items(self, claim: Claim, phase: int, items: dict[str, Any]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self._store.save_items(claim, phase, items)
        self.saves.append(dict(items))
        self.saved.set()


def test_items_are_saved_in_bulk(store: MockStateManager, next_claim: NextClaim) -> None:
    watched = Watched(store)
    with CheckpointManager(next_claim(), watched, StopToken()) as checkpoint:
        log = checkpoint.items(1)
        for number in range(500):
            log.mark(str(number), {"n": number})
        assert watched.saves == []
        assert log.get("7") == {"n": 7}
    assert [len(items) for items in watched.saves] == [500]


def test_an_item_is_saved_in_time_even_when_the_next_takes_long(store: MockStateManager, next_claim: NextClaim) -> None:
    watched = Watched(store)
    checkpoint = CheckpointManager(next_claim(), watched, StopToken(), item_flush_seconds=0.05)
    checkpoint.items(1).mark("first")
    assert watched.saved.wait(5)
    assert watched.saves == [{"first": {}}]


def test_items_wait_while_the_store_is_away(store: MockStateManager, next_claim: NextClaim) -> None:
    watched = Watched(store)
    log = BufferedItemLog(next_claim(), watched, 1, done={}, flush_seconds=0.0)
    watched.away = True
    log.mark("a")
    log.mark("b")
    with pytest.raises(StoreUnavailable):
        log.flush()
    watched.away = False
    log.mark("c")
    assert watched.saves == [{"a": {}, "b": {}, "c": {}}]


def test_leaving_does_not_fail_while_the_store_is_away(store: MockStateManager, next_claim: NextClaim) -> None:
    watched = Watched(store)
    with CheckpointManager(next_claim(), watched, StopToken()) as checkpoint:
        checkpoint.items(1).mark("a")
        watched.away = True


def test_an_item_that_json_cannot_hold_is_refused_where_it_is_marked(resume: Resume) -> None:
    log = resume().items(1)
    with pytest.raises(TypeError):
        log.mark("a", {"x": object()})
    with pytest.raises(ValueError, match="JSON"):
        log.mark("a", {"x": float("nan")})
    assert "a" not in log


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("mark"), st.integers(0, 20)),
            st.tuples(st.just("flush"), st.just(0)),
            st.tuples(st.just("crash"), st.just(0)),
            st.tuples(st.just("leave"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_no_saved_item_is_lost_and_no_unmarked_one_appears(steps: list[tuple[str, int]]) -> None:
    store = MockStateManager()
    store.create_test_job("job-1", "test")
    store.create_test_task("task-1", "job-1", "any", max_attempts=1000)
    claim = _claim_again(store, None)
    checkpoint = CheckpointManager(claim, store, StopToken(), item_flush_seconds=3600)
    marked: set[str] = set()
    saved: set[str] = set()
    for step, number in steps:
        match step:
            case "mark":
                checkpoint.items(1).mark(str(number))
                marked.add(str(number))
            case "flush":
                checkpoint.flush()
                saved |= marked
            case "crash" | "leave":
                if step == "leave":
                    checkpoint.__exit__(None, None, None)
                    saved |= marked
                for log in checkpoint._state.items.values():
                    log.discard()
                claim = _claim_again(store, claim)
                checkpoint = CheckpointManager(claim, store, StopToken(), item_flush_seconds=3600)
                found = {key for key, _ in checkpoint.items(1).items()}
                assert saved <= found <= marked
                marked = set(found)
    for log in checkpoint._state.items.values():
        log.discard()


def _claim_again(store: MockStateManager, held: Claim | None) -> Claim:
    if held is not None:
        store.fail_task(held, ErrorInfo(type="Crash", message="", retryable=True), retry_in=timedelta(0))
    claimed = store.claim_task("task-1", worker_id="worker", lease=timedelta(seconds=60))
    assert isinstance(claimed, Claim)
    return claimed


def test_threads_that_ask_at_the_same_time_get_the_same_items(
    store: MockStateManager, next_claim: NextClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = 8
    together = threading.Barrier(threads)
    load = store.load_items

    def slow(claim: Claim, phase: int) -> Any:
        threading.Event().wait(0.05)  # long enough for every thread to ask before the first has its answer
        return load(claim, phase)

    monkeypatch.setattr(store, "load_items", slow)
    checkpoint = CheckpointManager(next_claim(), store, StopToken())

    def mark(number: int) -> None:
        together.wait(5)
        checkpoint.items(1).mark(str(number))

    with checkpoint, ThreadPoolExecutor(threads) as pool:
        list(pool.map(mark, range(threads)))
    assert len(checkpoint.items(1)) == threads
