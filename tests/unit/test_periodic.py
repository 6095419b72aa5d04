"""A pass at an interval: the thread outlives what passes raise, and ends when asked."""

from __future__ import annotations

import threading
from datetime import timedelta

from infrastructure.periodic import Periodic


def test_passes_go_on_after_one_that_raised_and_end_at_stop() -> None:
    third = threading.Event()
    told: list[str] = []
    passes = 0

    def one() -> None:
        nonlocal passes
        passes += 1
        if passes == 3:
            third.set()
        if passes < 3:
            raise RuntimeError(f"pass {passes}")

    periodic = Periodic("passes", timedelta(milliseconds=1), one, failed=lambda error: told.append(str(error)))
    periodic.start()
    assert third.wait(10)
    assert periodic.stop(10)
    made = passes
    assert periodic.stopping
    assert told == ["pass 1", "pass 2"]
    assert not any(thread.name == "passes" for thread in threading.enumerate())
    assert passes == made
    assert not periodic.stop()


def test_a_pass_that_hangs_is_left_to_itself() -> None:
    began, go = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go.wait(10)

    periodic = Periodic("hanging", timedelta(hours=1), hang, failed=lambda error: None)
    periodic.start()
    assert began.wait(10)
    assert periodic.stop(0.01)
    go.set()
