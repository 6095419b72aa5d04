"""Removes the work files of tasks that have ended, after a while. Nothing else: a waiting, running or interrupted task
finds its files again, and what belongs to no task that the store knows stays for whoever put it there.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from core.errors import GeoworkerError
from core.records import TaskRecord
from core.states import TERMINAL_TASK_STATUSES
from core.work_directories import task_of_directory
from infrastructure.periodic import Periodic

logger = logging.getLogger(__name__)


class Tasks(Protocol):
    """The part of the state store that knows how a task is."""

    def get_task(self, task_id: str) -> TaskRecord | None: ...


class WorkCleaner:
    """Looks through the work files at an interval until stopped. Several workers may share one directory.

    Args:
        root: where tasks have their directories.
        tasks: says whether a task has ended.
        keep: how long work files are kept after their task has ended.
        interval: between two passes.
        now: the moment; it must agree with the store's.
    """

    def __init__(
        self,
        root: Path,
        tasks: Tasks,
        *,
        keep: timedelta,
        interval: timedelta = timedelta(minutes=10),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._root = root
        self._tasks = tasks
        self._keep = keep
        self._now = now
        self._passes = Periodic("work-cleaner", interval, self.run_once, failed=self._failed)

    def run_once(self) -> int:
        """One pass, now; how many directories were removed.

        Raises:
            StoreUnavailable: when the store cannot be reached; what was removed until then stays removed.
        """
        before = self._now() - self._keep
        removed = 0
        for path, task_id in self._candidates(before):
            if self._passes.stopping:
                break
            task = self._tasks.get_task(task_id)
            if task is not None and _ended_before(task, before):
                removed += _remove(path, task_id)
        return removed

    def _candidates(self, before: datetime) -> Iterator[tuple[Path, str]]:
        """Directories of tasks that nothing was put into or taken out of since ``before``."""
        try:
            entries = list(os.scandir(self._root))
        except OSError:
            return
        for entry in entries:
            task_id = task_of_directory(entry.name)
            try:
                is_old = entry.stat(follow_symlinks=False).st_mtime < before.timestamp()
                if task_id is not None and is_old and entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path), task_id
            except OSError:
                continue  # another worker has just removed it

    def start(self) -> None:
        """Clean in a thread, at once and then every interval."""
        self._passes.start()

    def stop(self) -> None:
        """End the thread; a removal that hangs is left to itself. Idempotent."""
        self._passes.stop()

    def _failed(self, error: Exception) -> None:
        text, told = "work files were not looked through: %s", {"action": "work.not_cleaned"}
        logger.warning(text, error, extra=told, exc_info=None if isinstance(error, GeoworkerError) else error)


def _ended_before(task: TaskRecord, moment: datetime) -> bool:
    return task.status in TERMINAL_TASK_STATUSES and task.finished_at is not None and task.finished_at < moment


def _remove(path: Path, task_id: str) -> bool:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        text = "the work files of an ended task could not be removed: %s"
        logger.warning(text, error, extra={"action": "work.not_removed", "task_id": task_id})
        return False
    logger.info("work files removed", extra={"action": "work.removed", "task_id": task_id})
    return True
