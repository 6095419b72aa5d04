"""Whole jobs in memory, and faults at chosen places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from core.docker_context import DockerTaskContext
from core.errors import InvalidInput, PermanentError, TransientError, UnknownJobType
from core.handlers import HandlerRegistry, HandlerSpec
from core.jobs import JobDefinition, JobParameters, JobRegistry, Stage
from core.outcome import Superseded
from core.records import AttemptOutcome, TaskPlan, TaskResult
from core.states import JobStatus, TaskStatus
from core.stopping import StopReason, StopToken
from testing import (
    CrashAtCheckpoint,
    CrashAtItem,
    DuplicateMessages,
    FailAtCheckpoint,
    FaultDidNotFire,
    JobDidNotEnd,
    JobRun,
    LoseLeaseAtCheckpoint,
    LoseMessages,
    StopAtPhase,
    StopAtProgress,
    WorkerCrashed,
    create_workbench,
    run_job,
    setup_single_task_test,
)


class Phases(JobParameters):
    """Parameters of ``phases``."""

    tasks: int = 1


class PhasesJob(JobDefinition[Phases]):
    """Tasks of three phases each."""

    job_type = "phases"
    parameters = Phases
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="phases", task_type="phases"),)

    def plan(self, stage: Stage, parameters: Phases, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        return [TaskPlan(parameters={"i": i}) for i in range(parameters.tasks)]


def three_phases(params: Mapping[str, Any], context: DockerTaskContext) -> dict[str, Any]:
    """Does each phase that no earlier attempt completed."""
    done = []
    for phase in (1, 2, 3):
        if context.checkpoint.should_skip(phase):
            continue
        done.append(phase)
        if context.checkpoint.save_and_stop_if_requested(phase, {f"phase_{phase}": context.attempt}):
            return context.interrupted(done=done)
    return {"success": True, "done": done, "data": dict(context.checkpoint.get_data("phase_1", 0) and {"ok": 1})}


JOBS = JobRegistry([PhasesJob()])
HANDLERS = HandlerRegistry([HandlerSpec(task_type="phases", handler=three_phases)])


def run(*faults: Any, tasks: int = 1) -> JobRun:
    return run_job("phases", {"tasks": tasks}, jobs=JOBS, handlers=HANDLERS, faults=faults)


def history(job_run: JobRun, index: int = 0) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in job_run.attempts[job_run.tasks[index].task_id]]


def done(job_run: JobRun) -> list[int]:
    result = job_run.tasks[0].result_data
    assert result is not None
    phases: list[int] = result["done"]
    return phases


def test_a_job_runs_to_its_end() -> None:
    job_run = run_job("hello_world", {"n": 5})
    assert job_run.succeeded
    assert job_run.result["greeted"] == 5
    assert [stage.remaining for stage in job_run.stages] == [0, 0]
    assert len(job_run.tasks) == 6


def test_retries_happen_on_a_clock_of_their_own() -> None:
    job_run = run_job("hello_world", {"n": 6, "failure_rate": 0.5})
    assert job_run.succeeded
    assert sorted(task.failures for task in job_run.tasks) == [0, 0, 0, 0, 1, 1, 1]
    again = run_job("hello_world", {"n": 6, "failure_rate": 0.5})
    assert [(task.task_id, task.finished_at) for task in job_run.tasks] == [
        (task.task_id, task.finished_at) for task in again.tasks
    ]
    assert job_run.messages.get_sent_messages() == again.messages.get_sent_messages()
    assert job_run.state.get_operation_log() == again.state.get_operation_log()


def test_an_empty_fan_out_ends() -> None:
    assert run_job("hello_world", {"n": 0}).result == {"greeted": 0, "replies": []}


def test_an_unknown_job_and_bad_parameters_are_refused() -> None:
    with pytest.raises(UnknownJobType, match="hello_world"):
        run_job("nope")
    with pytest.raises(InvalidInput, match="n: "):
        run_job("hello_world", {"n": -1})


def test_without_faults_three_phases_are_done_at_once() -> None:
    job_run = run()
    assert job_run.succeeded
    assert done(job_run) == [1, 2, 3]
    assert history(job_run) == [AttemptOutcome.COMPLETED]


def test_a_transient_failure_at_a_checkpoint_resumes_before_it() -> None:
    job_run = run(FailAtCheckpoint(number=2))
    assert job_run.succeeded
    assert history(job_run) == [AttemptOutcome.FAILED, AttemptOutcome.COMPLETED]
    assert done(job_run) == [2, 3]


def test_a_permanent_failure_at_a_checkpoint_fails_the_job() -> None:
    job_run = run(FailAtCheckpoint(number=2, error=PermanentError("disk is gone", code="NO_DISK")), tasks=2)
    assert job_run.job.status is JobStatus.FAILED
    assert job_run.job.error_details is not None
    assert job_run.job.error_details.code == "NO_DISK"


def test_failing_at_every_checkpoint_ends_at_the_attempt_limit() -> None:
    job_run = run(*[FailAtCheckpoint(number=number, error=TransientError("again")) for number in (1, 2, 3)])
    assert job_run.job.status is JobStatus.FAILED
    assert history(job_run) == [AttemptOutcome.FAILED] * 3


def test_a_crash_counts_and_the_next_attempt_resumes_after_the_checkpoint() -> None:
    job_run = run(CrashAtCheckpoint(number=2))
    assert job_run.succeeded
    assert history(job_run) == [AttemptOutcome.LEASE_EXPIRED, AttemptOutcome.COMPLETED]
    assert done(job_run) == [3]
    assert any(isinstance(outcome, WorkerCrashed) for outcome in job_run.outcomes)
    assert job_run.tasks[0].failures == 1


def test_a_lost_lease_writes_nothing_more() -> None:
    job_run = run(LoseLeaseAtCheckpoint(number=2))
    assert job_run.succeeded
    assert history(job_run) == [AttemptOutcome.LEASE_EXPIRED, AttemptOutcome.COMPLETED]
    assert done(job_run) == [2, 3]
    assert any(isinstance(outcome, Superseded) for outcome in job_run.outcomes)


def test_a_stop_at_a_phase_is_a_courtesy() -> None:
    job_run = run(StopAtPhase(phase=1), StopAtPhase(phase=2))
    assert job_run.succeeded
    assert history(job_run) == [AttemptOutcome.INTERRUPTED, AttemptOutcome.INTERRUPTED, AttemptOutcome.COMPLETED]
    assert (job_run.tasks[0].failures, job_run.tasks[0].interruptions) == (0, 2)
    assert done(job_run) == [3]


def test_a_stop_for_memory_counts() -> None:
    job_run = run(StopAtPhase(phase=2, reason=StopReason.MEMORY))
    assert job_run.succeeded
    assert job_run.tasks[0].failures == 1


@pytest.mark.parametrize(
    "fault", [DuplicateMessages(), LoseMessages(first=4), LoseMessages(first=1), DuplicateMessages(first=1)]
)
def test_doubled_and_lost_messages_change_nothing(fault: Any) -> None:
    job_run = run(fault, tasks=3)
    assert job_run.succeeded
    assert [history(job_run, index) for index in range(3)] == [[AttemptOutcome.COMPLETED]] * 3
    assert [task.attempt for task in job_run.tasks] == [1, 1, 1]


def test_every_fault_at_once() -> None:
    job_run = run(
        FailAtCheckpoint(number=1),
        CrashAtCheckpoint(number=2),
        StopAtPhase(phase=2),
        DuplicateMessages(),
        LoseMessages(),
        tasks=2,
    )
    assert job_run.succeeded


def test_a_fault_is_for_its_task_type() -> None:
    with pytest.raises(FaultDidNotFire, match="task_type='other'"):
        run(FailAtCheckpoint(task_type="other"))
    assert len(history(run(FailAtCheckpoint(task_type="phases")))) == 2


def test_a_reason_that_is_none_is_refused_where_the_fault_is_made() -> None:
    with pytest.raises(TypeError, match=r"StopReason\.DRAIN"):
        StopAtPhase(reason="shutdown")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'shutdown' was given"):
        StopAtProgress(reason="shutdown")  # type: ignore[arg-type]


def test_a_crash_at_an_item_redoes_only_what_was_not_saved() -> None:
    done: list[str] = []

    def items(params: Mapping[str, Any], context: DockerTaskContext) -> dict[str, Any]:
        log = context.checkpoint.items(1)
        for key in "abcd":
            if key not in log:
                done.append(key)
                log.mark(key)
        return {"success": True, "items": len(log)}

    handlers = HandlerRegistry([HandlerSpec(task_type="items", handler=items)])
    machine, state, _, message = setup_single_task_test("items", {}, handlers=handlers, faults=[CrashAtItem(number=3)])
    with pytest.raises(WorkerCrashed):
        machine.process_task_message(message)
    assert done == ["a", "b", "c"]
    for _ in range(2):  # the lease runs out, then the back-off
        state.advance(timedelta(minutes=10))
        state.sweep(limit=10)
    assert machine.process_task_message(message)["items"] == 4
    assert done == ["a", "b", "c", "d"]


def test_a_single_task_is_stopped_by_the_test() -> None:
    machine, state, _, message = setup_single_task_test("phases", {}, handlers=HANDLERS)
    stop = StopToken()
    stop.request(StopReason.DRAIN)
    assert machine.process_task_message(message, stop=stop)["interrupted"] is True
    task = state.get_task(message.task_id)
    assert task is not None
    assert (task.status, task.interruptions) == (TaskStatus.QUEUED, 1)
    machine, state, _, message = setup_single_task_test("phases", {}, handlers=HANDLERS, faults=[StopAtPhase(phase=2)])
    assert machine.process_task_message(message)["interrupted"] is True
    task = state.get_task(message.task_id)
    assert task is not None
    assert (task.checkpoint_phase, task.checkpoint_data) == (2, {"phase_1": 1, "phase_2": 1})
    assert machine.process_task_message(message)["done"] == [3]


def test_a_bench_is_driven_step_by_step() -> None:
    bench = create_workbench()
    job = bench.submit("hello_world", {"n": 2})
    assert bench.look(job.job_id).job.status is JobStatus.QUEUED
    assert bench.step()
    assert bench.state.count_tasks(job.job_id) == {1: {"queued": 2}}
    bench.messages.purge()
    assert not bench.step()
    bench.advance(timedelta(minutes=2))  # the sweeper sends lost hints again
    assert bench.drain() == 5
    assert bench.look(job.job_id).succeeded
    again = bench.submit("hello_world", {"n": 2})
    assert again.job_id == job.job_id
    bench.close()


def test_a_job_that_cannot_end_says_so() -> None:
    def busy(params: Mapping[str, Any], context: DockerTaskContext) -> dict[str, Any]:
        context.stop.request(StopReason.DRAIN)
        return context.interrupted()

    handlers = HandlerRegistry([HandlerSpec(task_type="phases", handler=busy)])
    bench = create_workbench(jobs=JOBS, handlers=handlers)
    job = bench.submit("phases")
    with pytest.raises(JobDidNotEnd, match="interrupted"):
        bench.finish(job.job_id)


def test_a_job_that_nobody_delivers_says_so() -> None:
    bench = create_workbench(faults=[LoseMessages(first=1_000_000)])
    with pytest.raises(JobDidNotEnd, match="still queued"):
        bench.finish(bench.submit("hello_world").job_id, longest=timedelta(minutes=10))
