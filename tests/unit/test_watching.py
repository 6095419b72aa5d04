"""A watching thread looks after every subject it is given, also one that comes while the thread is about to end."""

from __future__ import annotations

import queue
import threading
import time
from datetime import timedelta

import pytest

from core import watching
from core.watching import WatchingThread

POLL = timedelta(microseconds=200)


@pytest.fixture(autouse=True)
def parked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PARKED_LOOKS", 0)


def test_every_subject_is_looked_after() -> None:
    looked: queue.SimpleQueue[int] = queue.SimpleQueue()
    watched = WatchingThread[int]("watched", looked.put, poll=POLL)
    for number in range(500):
        watched.start(number)
        while looked.get(timeout=10) != number:
            continue  # a look at the subject before may have begun
        watched.finish()
        time.sleep(number % 7 / 20_000)  # the thread ends now and then
    watched.close()


def test_a_subject_that_comes_while_the_thread_ends_is_looked_after() -> None:
    looked: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Ending(WatchingThread[str]):
        def _park(self) -> bool:
            self.start("late")
            return super()._park()

    watched = Ending("ending", looked.put, poll=POLL)
    watched.start("first")
    watched.finish()
    while looked.get(timeout=10) != "late":
        continue
    watched.close()


def test_two_who_start_at_once_start_one_thread() -> None:
    both = threading.Barrier(2)

    class Beginning(WatchingThread[int]):
        def _begin(self) -> None:
            both.wait(timeout=10)
            super()._begin()

    watched = Beginning("only-one", lambda _: None, poll=timedelta(seconds=60))
    starting = [threading.Thread(target=watched.start, args=(number,)) for number in range(2)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    assert sum(thread.name == "only-one" for thread in threading.enumerate()) == 1
    watched.close()
