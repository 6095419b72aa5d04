"""A whole process that kills itself in one chosen gap: ``python chaos_gaps.py`` forks one for each line it reads.

A line is JSON: ``{"gap": ..., "url": ..., "bus": ..., "root": ...}``; the answer is the fork's process id.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[2]))

from app import composition
from app.composition import Application, compose
from app.role import Role
from app.settings import Settings
from core.docker_context import DockerTaskContext
from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.messages import Channel, TaskMessage
from core.records import Claim, Commit, RunsOn, TaskPlan, TaskResult
from infrastructure.postgres.state_store import StoreOptions
from transports import service_bus

TASKS = 6


class Effects(JobParameters):
    root: str


class EffectsJob(JobDefinition[Effects]):
    """Six tasks that each leave a mark, then one that counts the results."""

    job_type = "gaps"
    parameters = Effects
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="mark", task_type="mark", runs_on=RunsOn.FUNCTIONS, max_attempts=5),
        Stage(number=2, name="count", task_type="mark", runs_on=RunsOn.FUNCTIONS, max_attempts=5),
    )

    def plan(self, stage: Stage, parameters: Effects, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        if stage.number == 1:
            return [TaskPlan(parameters={"root": parameters.root, "name": f"a{number}"}) for number in range(TASKS)]
        return [TaskPlan(parameters={"root": parameters.root, "name": f"b{len(previous)}"})]

    def finalize(self, parameters: Effects, results: Sequence[TaskResult]) -> Mapping[str, Any]:
        return {"last": [dict(result.result_data or {}) for result in results]}


def mark(params: Mapping[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    """The side effect: a line in a file, written through at once."""
    with (Path(params["root"]) / "effects").open("a") as file:
        file.write(f"{params['name']} {context.attempt}\n")
        file.flush()
        os.fsync(file.fileno())
    return {"success": True, "name": params["name"]}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner: Any, method: str, when: Callable[[Any], bool]) -> None:
    """Die when ``method`` has returned something that ``when`` is true of."""
    original = getattr(owner, method)

    def run(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        if when(answer):
            die()
        return answer

    setattr(owner, method, run)


def half_way(application: Application) -> None:
    dispatcher = application.relay._routes[Channel.FUNCTIONS]
    original = dispatcher.dispatch

    def dispatch(messages: Sequence[Any]) -> Any:
        if len(messages) > 1:
            original(messages[: len(messages) // 2])
            die()
        return original(messages)

    dispatcher.dispatch = dispatch  # type: ignore[method-assign]


def before_settling(application: Application) -> None:
    original = service_bus.ServiceBusDelivery.settle

    def settle(delivery: Any, settlement: Any) -> None:
        if isinstance(delivery.message, TaskMessage):
            die()
        original(delivery, settlement)

    service_bus.ServiceBusDelivery.settle = settle  # type: ignore[method-assign]


def _always(_: Any) -> bool:
    return True


PLANNED_AT_SUBMISSION = "after a submission that planned, before its messages"
GAPS: Mapping[str, Callable[[Application], None]] = {
    "none": lambda application: None,
    "after the submission, before its message": lambda app: after(app.store, "submit_job", _always),
    PLANNED_AT_SUBMISSION: lambda app: after(app.store, "submit_job", _always),
    "after the plan, before its messages": lambda app: after(app.store, "plan_stage", _always),
    "half way through the messages of a plan": half_way,
    "after the messages, before they are marked": lambda app: after(
        app.relay._routes[Channel.FUNCTIONS], "dispatch", _always
    ),
    "after a claim": lambda app: after(app.store, "claim_task", lambda answer: isinstance(answer, Claim)),
    "after the side effect, before the completion": lambda app: after(app.machine._tasks.executor, "execute", _always),
    "after a completion": lambda app: after(app.store, "complete_task", _always),
    "after the last completion, before the stage's message": lambda app: after(
        app.store, "complete_task", lambda commit: isinstance(commit, Commit) and commit.last_in_stage
    ),
    "after the outcome, before the settlement": before_settling,
    "after the job's end, before the settlement": lambda app: after(app.store, "finish_job", _always),
    "in the middle of a sweep": lambda app: after(app.sweep_store, "_expire_leases", lambda counts: counts[0] > 0),
}
IN_AN_EXECUTION = ("after a claim", "after the side effect, before the completion")


def run(gap: str, url: str, bus: str, root: str) -> None:
    EffectsJob.plans_at_submission = gap == PLANNED_AT_SUBMISSION
    composition.job_registry = lambda: JobRegistry([EffectsJob()])
    composition.handler_registry = lambda: HandlerRegistry([HandlerSpec(task_type="mark", handler=mark)])
    # What a dead process was about to send is soon taken up by others.
    composition.StoreOptions = functools.partial(StoreOptions, hold=timedelta(seconds=1))  # type: ignore[assignment,misc]
    settings = Settings.from_env(
        {},
        docker_orchestration_mode="service_bus",
        service_bus_connection_string=bus,
        data_dir=Path(root),
        worker_id=f"gap-{os.getpid()}",
        functions_concurrency=1,
        lease_seconds=2.0 if gap in IN_AN_EXECUTION else 60.0,  # only the lease of one that dies may run out
        heartbeat_seconds=1.0,
        sweep_seconds=0.2,
        hint_seconds=1.0,
        retry_base_seconds=0.01,
        retry_cap_seconds=0.05,
    )
    application = compose(settings, Role.EMBEDDED, database_url=url)
    GAPS[gap](application)
    application.lifecycle.start()
    application.machine.submit_job("gaps", {"root": root})
    threading.Event().wait()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(**json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
