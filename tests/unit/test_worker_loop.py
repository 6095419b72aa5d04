"""serve(): one delivery at a time to its outcome and settlement."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.worker import BackgroundQueueWorker, LoopStatus, serve
from core.errors import ErrorInfo
from core.messages import JobMessage, Message, encode
from core.outcome import (
    Deferred,
    Failed,
    Finished,
    Interrupted,
    Outcome,
    Rejected,
    RetryLater,
    Superseded,
)
from core.states import TaskStatus
from core.stopping import StopReason, StopToken
from testing import setup_single_task_test
from transports.base import Complete, DeadLetter, Retry, Settlement
from transports.in_memory import InMemoryQueue, InMemorySource
from transports.settlement import settlement_for

ERROR = ErrorInfo(type="E", message="m", retryable=True)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("outcome", "settlement"),
    [
        (Finished(result={}), Complete()),
        (Failed(error=ERROR), Complete()),
        (RetryLater(error=ERROR, delay=SECOND), Complete()),
        (Interrupted(reason=StopReason.DRAIN), Complete()),
        (Superseded(reason="r"), Complete()),
        (Deferred(delay=SECOND, reason="r"), Retry(SECOND)),
        (Rejected(reason="r", detail="d"), DeadLetter("r", "d")),
    ],
)
def test_each_outcome_has_its_settlement(outcome: Outcome, settlement: Settlement) -> None:
    assert settlement_for(outcome) == settlement


def test_a_handled_message_never_comes_again_and_a_bad_one_is_kept_with_its_reason() -> None:
    queue = InMemoryQueue()
    queue.put(b"no json", encode(JobMessage(job_id="a", job_type="t")), encode(JobMessage(job_id="b", job_type="t")))
    stop = StopToken()
    seen: list[Message] = []

    def handle(message: Message, *, stop: StopToken | None = None, renew: Callable[[], None] | None = None) -> Outcome:
        seen.append(message)
        return Rejected(reason="UnknownJob", detail="d") if len(seen) == 1 else finish()

    def finish() -> Outcome:
        stop.request(StopReason.DRAIN)
        return Finished(result={})

    with InMemorySource(queue) as source:
        serve(source, handle, stop)
    assert [message.job_id for message in seen if isinstance(message, JobMessage)] == ["a", "b"]
    assert len(queue) == queue.locked == 0
    assert [letter.reason for letter in queue.dead_letters] == ["MalformedMessage", "UnknownJob"]


def test_the_loop_outlives_a_handler_that_raises() -> None:
    queue = InMemoryQueue(lock_duration=timedelta(milliseconds=10))
    queue.put(encode(JobMessage(job_id="a", job_type="t")))
    stop = StopToken()
    calls: list[int] = []

    def handle(message: Message, *, stop: StopToken | None = None, renew: Callable[[], None] | None = None) -> Outcome:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("boom")
        ended.set()
        return Finished(result={})

    ended = threading.Event()
    status = LoopStatus()
    with InMemorySource(queue) as source:
        thread = threading.Thread(target=serve, args=(source, handle, stop, status))
        thread.start()
        assert ended.wait(10)
        stop.request(StopReason.DRAIN)
        thread.join(10)
    assert len(calls) == 2
    assert status.last_error == "RuntimeError: boom"


def test_a_stop_ends_a_long_poll_at_once_and_reaches_the_running_task() -> None:
    queue = InMemoryQueue()
    started = threading.Event()
    reasons: list[StopReason | None] = []

    def handle(message: Message, *, stop: StopToken | None = None, renew: Callable[[], None] | None = None) -> Outcome:
        assert stop is not None
        started.set()
        assert stop.wait(10)
        reasons.append(stop.reason)
        return Interrupted(reason=StopReason.DRAIN)

    worker = BackgroundQueueWorker(lambda: InMemorySource(queue), handle, concurrency=2)
    worker.start()
    queue.put(encode(JobMessage(job_id="a", job_type="t")))
    assert started.wait(10)
    worker.stop()
    assert worker.join(5)
    assert reasons == [StopReason.DRAIN]
    assert not worker.status()["running"]


def test_a_message_fetched_as_the_worker_stops_is_given_back_untouched() -> None:
    queue = InMemoryQueue()
    queue.put(encode(JobMessage(job_id="a", job_type="t")))
    stop = StopToken()

    class StopsMeanwhile(InMemorySource):
        def receive(self, timeout: timedelta) -> Any:
            delivery = super().receive(timeout)
            stop.request(StopReason.DRAIN)
            return delivery

    def handle(message: Message, *, stop: StopToken | None = None, renew: Callable[[], None] | None = None) -> Outcome:
        raise AssertionError("nothing starts after a stop")

    status = LoopStatus()
    with StopsMeanwhile(queue) as source:
        serve(source, handle, stop, status)
        assert (len(queue), queue.locked) == (1, 0)  # there at once for another worker, not when a lock runs out
    assert (status.messages_processed, status.last_error) == (0, None)


def test_a_stop_between_claiming_and_starting_releases_the_task_untouched() -> None:
    machine, store, _, message = setup_single_task_test("hello_world_greeting", {"message": "Hello!"}, "hello_world")
    stop = StopToken()
    stop.request(StopReason.DRAIN)
    assert machine.run_task(message, stop=stop) == Interrupted(reason=StopReason.DRAIN)
    task = store.get_task(message.task_id)
    assert task is not None
    assert (task.status, task.failures, task.interruptions) == (TaskStatus.QUEUED, 0, 1)
    assert task.progress is None  # the handler reports some
    assert isinstance(machine.run_task(message, stop=StopToken()), Finished)
