"""ServiceBusDispatcher: batches, ids, properties, sizes."""

from __future__ import annotations

import pytest

from core.messages import JobMessage, Message, StageComplete, TaskMessage, encode
from tests.integration.service_bus.conftest import QUEUE, Bench, task
from transports.base import Refused, Sent

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("message", "message_id", "properties"),
    [
        (
            TaskMessage(
                task_id="t", parent_job_id="j", job_type="demo", task_type="work", stage=1, attempt=3, traceparent=TRACE
            ),
            "t:3",
            {"message_type": "task", "task_type": "work", "job_id": "j", "traceparent": TRACE},
        ),
        (
            JobMessage(job_id="j", job_type="demo"),
            "job:j",
            {"message_type": "job", "job_type": "demo", "job_id": "j"},
        ),
        (
            StageComplete(job_id="j", job_type="demo", completed_stage=2),
            "stage:j:2",
            {"message_type": "stage_complete", "job_type": "demo", "job_id": "j"},
        ),
    ],
    ids=["task", "job", "stage"],
)
def test_a_message_carries_its_id_and_properties(
    bench: Bench, message: Message, message_id: str, properties: dict[str, str]
) -> None:
    assert bench.dispatcher().dispatch([message]) == [Sent()]
    (stored,) = bench.emulator.peek(QUEUE)
    assert stored.message_id == message_id
    assert stored.application_properties == properties


def test_a_large_fan_out_goes_in_batches_in_order(bench: Bench) -> None:
    messages = [task(number) for number in range(3000)]
    assert bench.dispatcher(try_timeout=30).dispatch(messages) == [Sent()] * 3000
    stored = bench.emulator.peek(QUEUE, limit=4000)
    assert [message.message_id for message in stored] == [f"task-{number}:0" for number in range(3000)]


def test_an_oversize_message_is_refused_and_its_neighbours_are_sent(bench: Bench) -> None:
    giant = JobMessage(job_id="giant", job_type="x" * 2_000_000)
    results = bench.dispatcher().dispatch([task(1), giant, task(2)])
    assert results[0] == results[2] == Sent()
    assert isinstance(results[1], Refused)
    assert len(encode(giant)) > 1_000_000
    assert [message.message_id for message in bench.emulator.peek(QUEUE)] == ["task-1:0", "task-2:0"]
