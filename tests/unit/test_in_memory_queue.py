"""The queue in memory: locks end in the order in which they were last renewed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from transports.base import Complete, DeliveryLost
from transports.in_memory import InMemoryQueue


class Timepiece:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def never() -> bool:
    return False


def test_a_renewed_lock_does_not_keep_a_later_one_from_ending() -> None:
    clock = Timepiece()
    queue = InMemoryQueue(lock_duration=timedelta(seconds=10), clock=clock)
    queue.put(b"renewed", b"left")
    first, second = queue.take(0, never), queue.take(0, never)
    assert first is not None
    assert second is not None
    clock.seconds = 5.0
    queue.renew(first[0])
    clock.seconds = 11.0
    again = queue.take(0, never)
    assert again is not None
    assert (again[1].body, again[1].deliveries) == (b"left", 2)
    assert queue.take(0, never) is None
    with pytest.raises(DeliveryLost):
        queue.settle(second[0], Complete())
    queue.settle(first[0], Complete())
    clock.seconds = 22.0
    assert queue.locked == 1
    third = queue.take(0, never)
    assert third is not None
    assert third[1].body == b"left"
