"""Together: nobody waits for a batch to fill, and those who come meanwhile are asked as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from infrastructure.postgres.together import Together


class Slow:
    """Answers each number with its double; holds every question until it is let go."""

    def __init__(self, *, held: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.asked = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.held = held

    def __call__(self, numbers: Sequence[int]) -> Callable[[], list[int]]:
        self.batches.append(list(numbers))
        self.asked.release()
        if self.held:
            assert self.go.acquire(timeout=20)
        if -1 in numbers:
            raise ValueError("no doubles of -1")
        return lambda: [number * 2 for number in numbers]


def ask_in_thread(together: Together[int, int], number: int, answers: dict[int, object]) -> threading.Thread:
    def run() -> None:
        try:
            answers[number] = together(number)
        except ValueError as error:
            answers[number] = error

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def queue_up(
    together: Together[int, int], numbers: Sequence[int], answers: dict[int, object]
) -> list[threading.Thread]:
    """Ask each in turn, so that their order is known."""
    threads = []
    for number in numbers:
        before = len(together._waiting)
        threads.append(ask_in_thread(together, number, answers))
        while len(together._waiting) == before:
            pass
    return threads


def test_who_comes_alone_is_asked_alone() -> None:
    slow = Slow(held=False)
    together = Together(slow)
    assert [together(1), together(2)] == [2, 4]
    assert slow.batches == [[1], [2]]


def test_those_who_come_meanwhile_are_asked_together_in_order_and_in_batches_of_the_limit() -> None:
    slow = Slow()
    together = Together(slow, limit=3)
    answers: dict[int, object] = {}
    first = ask_in_thread(together, 0, answers)
    assert slow.asked.acquire(timeout=20)
    others = queue_up(together, [1, 2, 3, 4], answers)
    for _ in range(3):
        slow.go.release()
    for thread in (first, *others):
        thread.join(20)
    assert slow.batches == [[0], [1, 2, 3], [4]]
    assert answers == {number: number * 2 for number in range(5)}


def test_an_error_reaches_everybody_of_its_batch_and_nobody_else() -> None:
    slow = Slow()
    together = Together(slow)
    answers: dict[int, object] = {}
    first = ask_in_thread(together, 0, answers)
    assert slow.asked.acquire(timeout=20)
    others = queue_up(together, [1, -1], answers)
    slow.go.release()
    slow.go.release()
    for thread in (first, *others):
        thread.join(20)
    assert answers[0] == 0
    assert all(isinstance(answers[number], ValueError) for number in (1, -1))
    slow.held = False
    assert together(5) == 10  # the next one is asked as if nothing had been


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_everybody_gets_an_answer_of_their_own(limit: int) -> None:
    together = Together(Slow(held=False), limit=limit)
    answers: list[tuple[int, int]] = []

    def ask(start: int) -> None:
        for number in range(start, start + 200):
            answers.append((number, together(number)))

    threads = [threading.Thread(target=ask, args=[1000 * n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 1600
    assert all(answer == 2 * number for number, answer in answers)


def test_the_next_batch_is_asked_while_the_answers_of_the_last_are_read() -> None:
    second_asked = threading.Event()

    def ask(numbers: Sequence[int]) -> Callable[[], list[int]]:
        if 2 in numbers:
            second_asked.set()
            return lambda: [number * 2 for number in numbers]
        queued.append(queue_up(together, [2], answers))

        def read() -> list[int]:
            assert second_asked.wait(20)
            return [number * 2 for number in numbers]

        return read

    queued: list[list[threading.Thread]] = []
    answers: dict[int, object] = {}
    together: Together[int, int] = Together(ask)
    assert together(1) == 2
    for thread in queued[0]:
        thread.join(20)
    assert answers == {2: 4}


def test_an_error_in_reading_reaches_its_batch_and_the_next_is_asked() -> None:
    def ask(numbers: Sequence[int]) -> Callable[[], list[int]]:
        def read() -> list[int]:
            if -1 in numbers:
                raise ValueError("cannot be read")
            return list(numbers)

        return read

    together = Together(ask)
    with pytest.raises(ValueError, match="cannot be read"):
        together(-1)
    assert together(3) == 3
