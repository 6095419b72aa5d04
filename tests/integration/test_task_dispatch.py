"""HttpTriggerDispatcher against a real socket: what is sent, what is tried again, what is final and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from app.composition import Application, compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.messages import JobMessage, TaskMessage
from core.records import TaskQuery
from core.states import JobStatus, TaskStatus
from tests.geoworker_process import free_port
from tests.http_support import Answer, Misbehaviour, Receiver, Reply, receivers
from tests.process_support import wait_until
from transports.base import Refused, Sent, TryAgain
from transports.http_trigger import HttpTarget, HttpTriggerDispatcher

MESSAGE = TaskMessage(
    task_id="task-1",
    parent_job_id="job-1",
    job_type="hello_world_triggered",
    task_type="hello_world_greeting",
    stage=2,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    with receivers() as make:
        yield make


@pytest.fixture
def dispatcher_to() -> Iterator[Callable[..., HttpTriggerDispatcher]]:
    made: list[HttpTriggerDispatcher] = []

    def make(url: str, **target: Any) -> HttpTriggerDispatcher:
        made.append(HttpTriggerDispatcher(HttpTarget(base_url=url, **target)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def base(receiver: Receiver) -> str:
    return f"http://127.0.0.1:{receiver.port}/"


def test_the_request_names_the_task_its_job_and_where_to_call_back(
    receiver: Callable[..., Receiver], dispatcher_to: Callable[..., HttpTriggerDispatcher]
) -> None:
    worker = receiver(202)
    dispatcher = dispatcher_to(
        base(worker),
        headers={"X-Api-Key": "k"},
        bearer=lambda: "a-token",
        callback_url="https://front/api/task/callback",
    )
    assert dispatcher.dispatch([MESSAGE]) == [Sent()]
    (got,) = worker.got
    assert got.path == "/task/start"
    assert json.loads(got.body) == {
        "task_id": "task-1",
        "task_type": "hello_world_greeting",
        "job_id": "job-1",
        "callback_url": "https://front/api/task/callback",
    }
    assert (got.headers["X-Api-Key"], got.headers["Authorization"]) == ("k", "Bearer a-token")
    assert got.headers["traceparent"] == MESSAGE.traceparent


@pytest.mark.parametrize(
    ("reply", "expected", "after"),
    [
        (202, Sent, None),
        (200, Sent, None),
        (Misbehaviour.RESET, TryAgain, None),
        (Misbehaviour.HANG, TryAgain, None),
        (408, TryAgain, None),
        (Answer(429, {"Retry-After": "7"}), TryAgain, timedelta(seconds=7)),
        (Answer(503, {"Retry-After": "120"}), TryAgain, timedelta(seconds=120)),
        (500, TryAgain, None),
        (502, TryAgain, None),
        (504, TryAgain, None),
        (Answer(302, {"Location": "https://login.example.org/"}), Refused, None),
        (400, Refused, None),
        (401, Refused, None),
        (403, Refused, None),
        (404, Refused, None),
        (409, Refused, None),
        (422, Refused, None),
    ],
)
def test_each_answer_has_its_meaning(
    reply: Reply,
    expected: type[object],
    after: timedelta | None,
    receiver: Callable[..., Receiver],
    dispatcher_to: Callable[..., HttpTriggerDispatcher],
) -> None:
    worker = receiver(reply)
    (result,) = dispatcher_to(base(worker), timeout=0.5).dispatch([MESSAGE])
    assert isinstance(result, expected), result
    assert len(worker.got) == 1  # tries are the relay's, with its back-off
    if isinstance(result, TryAgain):
        assert result.after == after


def test_a_date_in_retry_after_is_understood(
    receiver: Callable[..., Receiver], dispatcher_to: Callable[..., HttpTriggerDispatcher]
) -> None:
    moment = datetime.now(UTC) + timedelta(minutes=2)
    worker = receiver(Answer(503, {"Retry-After": format_datetime(moment, usegmt=True)}))
    (result,) = dispatcher_to(base(worker)).dispatch([MESSAGE])
    assert isinstance(result, TryAgain)
    assert result.after is not None
    assert timedelta(seconds=100) < result.after <= timedelta(seconds=120)


def test_nobody_there_no_token_and_what_is_no_task(dispatcher_to: Callable[..., HttpTriggerDispatcher]) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    (result,) = dispatcher_to(nobody).dispatch([MESSAGE])
    assert isinstance(result, TryAgain)
    assert "ConnectError" in result.error

    def no_token() -> str:
        raise RuntimeError("no identity here")

    (result,) = dispatcher_to(nobody, bearer=no_token).dispatch([MESSAGE])
    assert isinstance(result, TryAgain)
    assert "no identity here" in result.error
    (result,) = dispatcher_to(nobody).dispatch([JobMessage(job_id="j", job_type="hello_world")])
    assert isinstance(result, Refused)


def test_many_messages_have_their_results_in_order(
    receiver: Callable[..., Receiver], dispatcher_to: Callable[..., HttpTriggerDispatcher]
) -> None:
    worker = receiver(202)
    messages = [MESSAGE.model_copy(update={"task_id": f"task-{number}"}) for number in range(40)]
    assert dispatcher_to(base(worker)).dispatch(messages) == [Sent()] * 40
    assert {json.loads(got.body)["task_id"] for got in worker.got} == {message.task_id for message in messages}


def test_a_problem_documents_detail_is_kept(
    receiver: Callable[..., Receiver], dispatcher_to: Callable[..., HttpTriggerDispatcher]
) -> None:
    body = b'{"detail": "known with another type"}'
    worker = receiver(Answer(409, {"Content-Type": "application/problem+json"}, body))
    assert dispatcher_to(base(worker)).dispatch([MESSAGE]) == [
        Refused("the worker answered 409: known with another type")
    ]


@pytest.fixture
def orchestrator(settings: Settings, database_url: str) -> Iterator[Callable[[str], Application]]:
    made: list[Application] = []

    def make(worker_url: str) -> Application:
        configured = settings.model_copy(
            update={"docker_orchestration_mode": OrchestrationMode.HTTP_TRIGGER, "docker_worker_url": worker_url}
        )
        made.append(compose(configured, Role.ORCHESTRATOR, database_url=database_url))
        made[-1].lifecycle.start()
        return made[-1]

    yield make
    for one in made:
        one.lifecycle.drain()


def test_a_refusal_is_final_and_recorded_on_the_task_and_its_job(
    receiver: Callable[..., Receiver], orchestrator: Callable[[str], Application]
) -> None:
    worker = receiver(Answer(404, {}, b'{"detail": "no task type hello_world_greeting here"}'))
    application = orchestrator(base(worker))
    job_id = application.machine.submit_job("hello_world_triggered", {"n": 1}).job.job_id
    job = wait_until(lambda: _ended(application, job_id), 20)
    assert job.status is JobStatus.FAILED
    (task,) = application.store.list_tasks(TaskQuery(job_id=job_id, status=TaskStatus.FAILED))
    assert task.error_details is not None
    assert task.error_details.type == "Undeliverable"
    assert "404: no task type hello_world_greeting here" in task.error_details.message
    assert len(worker.got) == 1


def _ended(application: Application, job_id: str) -> Any:
    job = application.store.get_job(job_id)
    return job if job is not None and job.status in (JobStatus.FAILED, JobStatus.COMPLETED) else None


def test_a_cold_worker_is_tried_until_it_answers(
    receiver: Callable[..., Receiver], orchestrator: Callable[[str], Application]
) -> None:
    worker = receiver(503, Misbehaviour.RESET, Answer(429, {"Retry-After": "1"}), 202)
    application = orchestrator(base(worker))
    application.machine.submit_job("hello_world_triggered", {"n": 1})
    worker.wait_for(4)
    wait_until(lambda: application.relay.status.sent >= 3)  # the job, its first stage's end, and the task
    assert application.relay.status.failed == 3
    assert len({json.loads(got.body)["task_id"] for got in worker.got}) == 1
    assert application.relay.status.given_up == 0
