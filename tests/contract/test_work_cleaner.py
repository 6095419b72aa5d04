"""Work files of ended tasks go after a while; those of every other task stay, whatever store says how it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import StoreUnavailable
from core.jobs import task_id
from core.records import TaskRecord
from core.work_directories import task_directory
from infrastructure.work_cleaner import WorkCleaner
from tests.contract.stores import TRANSIENT, Given, MemoryBackend

KEEP = timedelta(hours=2)
LATER = timedelta(hours=3)


@pytest.fixture
def now(given: Given) -> Callable[[], datetime]:
    """The store's moment."""
    backend = given.backend
    return backend.store.clock.now if isinstance(backend, MemoryBackend) else lambda: datetime.now(UTC)


@pytest.fixture
def cleaner(given: Given, tmp_path: Path, now: Callable[[], datetime]) -> WorkCleaner:
    return WorkCleaner(tmp_path, given.state, keep=KEEP, now=now)


@pytest.fixture
def work_of(tmp_path: Path, now: Callable[[], datetime]) -> Callable[[str], Path]:
    """Makes a task's directory, with a file in a directory of its own, untouched for a day."""

    def make(of: str) -> Path:
        directory = tmp_path / task_directory(of)
        (directory / "tiles").mkdir(parents=True)
        (directory / "tiles" / "0.tif").write_bytes(b"pixels")
        long_ago = (now() - timedelta(days=1)).timestamp()
        os.utime(directory, (long_ago, long_ago))
        return directory

    return make


ENDINGS: dict[str, Callable[[Given, str], object]] = {
    "completed": lambda given, job: given.complete(job),
    "failed": lambda given, job: given.fail(job),
    "cancelled": lambda given, job: given.state.cancel_job(job, reason="no longer wanted"),
}

STATES: dict[str, Callable[[Given, str], object]] = {
    "waiting": lambda given, job: None,
    "running": lambda given, job: given.claim(job),
    "released": lambda given, job: given.state.release_task(given.claim(job), reason="drain"),
    "to be tried again": lambda given, job: given.state.fail_task(given.claim(job), TRANSIENT, retry_in=LATER),
    "cancelled while it runs": lambda given, job: (given.claim(job), given.state.cancel_job(job, reason="x")),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_work_files_of_an_ended_task_go_when_they_were_kept_long_enough(
    given: Given, cleaner: WorkCleaner, work_of: Callable[[str], Path], end: Callable[[Given, str], object]
) -> None:
    job_id = given.running_job().job_id
    directory = work_of(task_id(job_id, 1, 0))
    end(given, job_id)
    assert cleaner.run_once() == 0
    assert directory.exists()
    given.advance(LATER)
    assert cleaner.run_once() == 1
    assert not directory.exists()
    assert cleaner.run_once() == 0


@pytest.mark.parametrize("bring", STATES.values(), ids=STATES.keys())
def test_those_of_a_task_that_has_not_ended_stay(
    given: Given, cleaner: WorkCleaner, work_of: Callable[[str], Path], bring: Callable[[Given, str], object]
) -> None:
    job_id = given.running_job().job_id
    directory = work_of(task_id(job_id, 1, 0))
    bring(given, job_id)
    given.advance(LATER)
    assert cleaner.run_once() == 0
    assert (directory / "tiles" / "0.tif").exists()


def test_what_belongs_to_no_known_task_stays(
    given: Given, cleaner: WorkCleaner, work_of: Callable[[str], Path], tmp_path: Path
) -> None:
    others = [work_of("nobodys-task"), work_of("x" * 300)]
    (tmp_path / "Notes").mkdir()
    (tmp_path / "file").write_text("")
    assert cleaner.run_once() == 0
    assert all(directory.exists() for directory in (*others, tmp_path / "Notes", tmp_path / "file"))


def test_a_link_is_no_directory_of_a_task(
    given: Given, cleaner: WorkCleaner, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job_id = given.running_job().job_id
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    link = tmp_path / task_directory(task_id(job_id, 1, 0))
    link.symlink_to(elsewhere)
    os.utime(link, (0, 0), follow_symlinks=False)
    given.complete(job_id)
    given.advance(LATER)
    assert cleaner.run_once() == 0
    assert elsewhere.exists()


def test_nothing_is_removed_while_the_store_cannot_tell(work_of: Callable[[str], Path], tmp_path: Path) -> None:
    class Away:
        def get_task(self, task_id: str) -> TaskRecord | None:
            raise StoreUnavailable("away")

    directory = work_of("a")
    with pytest.raises(StoreUnavailable):
        WorkCleaner(tmp_path, Away(), keep=KEEP).run_once()
    assert directory.exists()


def test_its_thread_cleans_at_once_and_outlives_a_store_that_is_away(
    given: Given, work_of: Callable[[str], Path], tmp_path: Path, now: Callable[[], datetime]
) -> None:
    job_id = given.running_job().job_id
    directory = work_of(task_id(job_id, 1, 0))
    given.complete(job_id)
    given.advance(LATER)
    asked = threading.Semaphore(0)

    class AwayAtFirst:
        tries = 0

        def get_task(self, task_id: str) -> TaskRecord | None:
            self.tries += 1
            asked.release()
            if self.tries == 1:
                raise StoreUnavailable("away")
            return given.state.get_task(task_id)

    cleaner = WorkCleaner(tmp_path, AwayAtFirst(), keep=KEEP, interval=timedelta(milliseconds=5), now=now)
    cleaner.start()
    assert asked.acquire(timeout=10)
    assert asked.acquire(timeout=10)
    cleaner.stop()
    assert not directory.exists()
