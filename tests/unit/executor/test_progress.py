from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.docker_context import DockerTaskContext
from core.errors import ClaimLost, StoreUnavailable
from core.records import Claim, Progress
from core.stopping import StopToken
from infrastructure.checkpoint_manager import CheckpointManager
from infrastructure.progress_writer import ProgressWriter
from testing.mock_state_manager import MockStateManager


class Store(MockStateManager):
    """Remembers what was written, and says when."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Progress] = []
        self.wrote = threading.Semaphore(0)
        self.fault: Exception | None = None

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        try:
            if self.fault is not None:
                raise self.fault
            self.written.append(progress)
        finally:
            self.wrote.release()


@pytest.fixture
def recording() -> Store:
    return Store()


@pytest.fixture
def make(recording: Store, next_claim: Callable[[], Claim]) -> Iterator[Callable[[float], ProgressWriter]]:
    made: list[ProgressWriter] = []

    def writer(interval: float) -> ProgressWriter:
        made.append(ProgressWriter(next_claim(), recording, interval=interval))
        return made[-1]

    yield writer
    for one in made:
        one.close()


Make = Callable[[float], ProgressWriter]


def at(percent: float, message: str = "") -> Progress:
    return Progress(percent=percent, message=message)


def test_writes_are_throttled_and_the_last_word_is_written(make: Make, recording: Store) -> None:
    writer = make(0.1)
    for percent in range(50):
        writer(at(percent))
    writer(at(50, "building overviews"))  # and then silence
    assert recording.wrote.acquire(timeout=5)
    assert recording.wrote.acquire(timeout=5)
    assert [progress.percent for progress in recording.written][0 :: len(recording.written) - 1] == [0, 50]
    assert len(recording.written) < 10
    assert recording.written[-1].message == "building overviews"


def test_the_end_is_written_at_once_and_only_once(make: Make, recording: Store) -> None:
    writer = make(1000)
    writer(at(0))
    writer(at(99))
    for _ in range(5):
        writer(at(100, "done"))
    assert [progress.percent for progress in recording.written] == [0, 100]


def test_what_waits_is_written_when_the_task_ends(make: Make, recording: Store) -> None:
    writer = make(1000)
    writer(at(0))
    writer(at(40, "stopped here"))
    writer.close()
    assert recording.written[-1].message == "stopped here"
    writer(at(60))  # a thread of the handler's that has not noticed: neither written nor armed
    assert recording.written[-1].percent == 40


def test_progress_is_dropped_while_the_store_is_away(make: Make, recording: Store) -> None:
    writer = make(0)
    recording.fault = StoreUnavailable("away")
    writer(at(10))
    recording.fault = None
    writer(at(20))
    assert [progress.percent for progress in recording.written] == [20]


def test_a_claim_found_lost_in_the_background_ends_the_next_report(make: Make, recording: Store) -> None:
    writer = make(0.05)
    writer(at(0))
    assert recording.wrote.acquire(timeout=5)
    recording.fault = ClaimLost("task-1", 1)
    writer(at(1))
    assert recording.wrote.acquire(timeout=5)
    with pytest.raises(ClaimLost):
        writer(at(2))
    writer.close()


@pytest.fixture
def reported(next_claim: Callable[[], Claim], store: MockStateManager, tmp_path: Path) -> tuple[Any, list[Progress]]:
    """A context, and what its sink was given."""
    given: list[Progress] = []
    context = DockerTaskContext(
        task_id="task-1", job_id="job-1", job_type="j", task_type="t", stage=1, attempt=1, worker_id="w",
        checkpoint=CheckpointManager(next_claim(), store, StopToken()), stop=StopToken(), progress_sink=given.append,
        work_root=tmp_path,
    )  # fmt: skip
    return context, given


def test_rate_and_eta_follow_from_what_this_attempt_has_done(
    reported: tuple[DockerTaskContext, list[Progress]], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, given = reported
    now = [100.0]
    monkeypatch.setattr("core.docker_context.time.monotonic", lambda: now[0])
    context.report_progress(done=600, total=1000, unit="tiles")  # 600 of them by an earlier attempt
    now[0] += 10.0
    context.report_progress(done=650, total=1000, unit="tiles", message="tile 650")
    first, second = given
    assert (first.percent, first.rate, first.eta_seconds) == (60.0, None, None)
    assert (second.percent, second.rate, second.eta_seconds) == (65.0, 5.0, 70.0)
    assert (second.done, second.total, second.unit, second.message) == (650, 1000, "tiles", "tile 650")


@pytest.mark.parametrize(("given_percent", "shown"), [(-3, 0.0), (50, 50.0), (140.0, 100.0)])
def test_percent_stays_within_its_bounds(
    reported: tuple[DockerTaskContext, list[Progress]], given_percent: float, shown: float
) -> None:
    context, given = reported
    context.report_progress(given_percent, "x")
    assert given[0].percent == shown
