"""CoreMachine: the life of jobs, stages and tasks, the same in every mode.

The order is always: commit to the store, then publish, then (the caller) settle. Each gap is safe: what was committed
and not published is in the outbox, and what was published and not settled comes again and finds the work done.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from pydantic import BaseModel

from core.errors import (
    Conflict,
    ErrorInfo,
    InvalidInput,
    JobNotFound,
    PermanentError,
    StoreUnavailable,
    TransientError,
    UnknownJobType,
    UnknownTaskType,
)
from core.handlers import HandlerRegistry, validate
from core.heartbeat import HeartbeatCounts, Renew
from core.jobs import JobDefinition, JobRegistry, canonical_json, check_registries, job_fingerprint
from core.machine_options import MachineOptions
from core.messages import JobMessage, Message, StageComplete, TaskEnded, TaskMessage
from core.outcome import Deferred, Failed, Finished, Interrupted, Outcome, Rejected, RetryLater, Superseded
from core.ports import MessagePublisher, StateStore, TaskExecutor
from core.records import JobRecord, JobSubmission, StagePlan, TaskResult
from core.states import TERMINAL_JOB_STATUSES, JobStatus, TaskStatus
from core.stopping import StopToken
from core.task_runner import TaskRunner

__all__ = ["CoreMachine", "MachineOptions", "Submitted"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job, and whether this call created it."""

    job: JobRecord
    created: bool


class CoreMachine:
    """Runs jobs. Holds no state of its own: everything is in the store."""

    def __init__(
        self,
        *,
        jobs: JobRegistry,
        handlers: HandlerRegistry,
        store: StateStore,
        publisher: MessagePublisher,
        executor: TaskExecutor,
        options: MachineOptions,
        rng: random.Random | None = None,
    ) -> None:
        check_registries(jobs, handlers)
        self.jobs = jobs
        self.handlers = handlers
        self.store = store
        self._publisher = publisher
        self._options = options
        self._tasks = TaskRunner(
            handlers=handlers,
            store=store,
            publisher=publisher,
            executor=executor,
            options=options,
            rng=rng or random.Random(),  # noqa: S311 - jitter
        )

    @property
    def heartbeat_counts(self) -> HeartbeatCounts:
        """What the heartbeats of running tasks have done."""
        return self._tasks.heartbeat_counts

    # Jobs

    def submit_job(
        self,
        job_type: str,
        parameters: Mapping[str, Any],
        *,
        rerun: bool = False,
        submitted_by: str | None = None,
        traceparent: str | None = None,
    ) -> Submitted:
        """Accept a job, once: the same type and parameters are the same job unless ``rerun`` asks for a new run.

        Raises:
            UnknownJobType: when no such type is registered; the error lists those that are.
            InvalidInput: when parameters do not fit; every fault is named.
            StoreUnavailable: when the store cannot be reached; nothing was accepted.
        """
        definition = self.jobs[job_type]
        checked = validate(definition.parameters, parameters, subject=f"parameters of {definition.job_type}")
        plain = checked.model_dump(mode="json")
        first_stage = self._first_stage(definition, checked)
        job, commit = self.store.submit_job(
            JobSubmission(
                fingerprint=job_fingerprint(definition.job_type, plain),
                job_type=definition.job_type,
                parameters=plain,
                total_stages=len(definition.stages),
                failure_policy=definition.policy(checked),
                rerun=rerun,
                submitted_by=submitted_by,
                traceparent=traceparent,
                first_stage=first_stage,
            )
        )
        self._publisher.publish(commit.messages)
        if commit.applied:
            logger.info("job submitted", extra={"action": "job.submitted", "job_id": job.job_id})
            if first_stage is not None:
                _tell_planned(job.job_id, first_stage)
        return Submitted(job, commit.applied)

    def _first_stage(self, definition: JobDefinition[Any], parameters: BaseModel) -> StagePlan | None:
        """The first stage of a job that is planned at its submission.

        None leaves it to the job's message: where planning fails there, the job is failed and says why.
        """
        if not definition.plans_at_submission:
            return None
        try:
            plan = self._stage_plan(definition, parameters, 1, ())
            canonical_json([dict(task.parameters) for task in plan.tasks])  # what cannot be stored is not planned
        except Exception as error:  # noqa: BLE001 - a definition may raise anything
            logger.warning("not planned at submission: %s", error, extra={"action": "job.plan_put_off"})
            return None
        return plan

    def retry_job(
        self,
        job_id: str,
        *,
        from_stage: int | None = None,
        from_checkpoint: int | None = None,
        submitted_by: str | None = None,
    ) -> JobRecord:
        """Run an ended job again as a new run: its failed and cancelled tasks, everything from a stage on, or its
        tasks from a checkpoint on (see :meth:`~core.ports.StateStore.replay_job`).

        Raises:
            JobNotFound: when there is no such job.
            InvalidInput: when both a stage and a checkpoint are given.
            Conflict: while the job runs, or when nothing of it is left to do.
        """
        job, commit = self.store.replay_job(
            job_id, from_stage=from_stage, from_checkpoint=from_checkpoint, submitted_by=submitted_by
        )
        self._publisher.publish(commit.messages)
        logger.info("job retried", extra={"action": "job.retried", "job_id": job.job_id, "replay_of": job_id})
        return job

    def cancel_job(self, job_id: str, *, reason: str = "cancelled on request") -> JobRecord:
        """Cancel a job: waiting tasks never start, running ones are told to stop.

        Raises:
            JobNotFound: when there is no such job.
            Conflict: when it has ended otherwise.
        """
        commit = self.store.cancel_job(job_id, reason=reason)
        self._publisher.publish(commit.messages)
        job = self.store.get_job(job_id)
        if job is None:
            raise JobNotFound(job_id)
        if not commit.applied and job.status is not JobStatus.CANCELLED:
            raise Conflict(f"job {job_id} is {job.status} and cannot be cancelled")
        return job

    # Messages

    def handle(self, message: Message, *, stop: StopToken | None = None, renew: Renew | None = None) -> Outcome:
        """Handle any message to its outcome. Never raises for what a handler or the store does."""
        match message:
            case TaskMessage():
                return self.run_task(message, stop=stop or StopToken(), renew=renew)
            case JobMessage():
                return self.process_job_message(message)
            case StageComplete():
                return self.process_stage_complete(message)
            case TaskEnded():
                return Rejected(reason="NotForMachine", detail="a task_ended message is for callbacks")
            case _:
                assert_never(message)

    def process_job_message(self, message: JobMessage) -> Outcome:
        """Plan the first stage of an accepted job."""
        return self._orchestrate(message.job_id, lambda job, definition: self._plan(job, definition, 1))

    def process_stage_complete(self, message: StageComplete) -> Outcome:
        """Plan the stage after a completed one, or finish the job."""

        def step(job: JobRecord, definition: JobDefinition[Any]) -> Outcome:
            if job.stage != message.completed_stage:
                return Superseded(reason=f"the job is at stage {job.stage}, not {message.completed_stage}")
            if message.completed_stage < len(definition.stages):
                return self._plan(job, definition, message.completed_stage + 1)
            return self._finish(job, definition)

        return self._orchestrate(message.job_id, step)

    def _orchestrate(self, job_id: str, step: Callable[[JobRecord, JobDefinition[Any]], Outcome]) -> Outcome:
        try:
            job = self.store.get_job(job_id)
            if job is None:
                return Rejected(reason="UnknownJob", detail=f"the store knows no job {job_id}")
            if job.status in TERMINAL_JOB_STATUSES:
                return Superseded(reason=f"the job is already {job.status}")
            try:
                return step(job, self.jobs[job.job_type])
            except UnknownJobType as error:
                return Rejected(reason="UnknownJobType", detail=str(error))
            except (StoreUnavailable, TransientError):
                raise
            except Exception as error:
                info = _definition_error(error)
                logger.exception("planning failed", extra={"action": "job.failed", "job_id": job_id})
                self._publisher.publish(self.store.fail_job(job_id, info).messages)
                return Failed(error=info)
        except (StoreUnavailable, TransientError) as error:
            return Deferred(delay=self._options.store_retry, reason=str(error))

    def _plan(self, job: JobRecord, definition: JobDefinition[Any], number: int) -> Outcome:
        previous = self.store.stage_results(job.job_id, number - 1) if number > 1 else ()
        parameters = validate(definition.parameters, job.parameters, subject=f"parameters of {job.job_type}")
        plan = self._stage_plan(definition, parameters, number, previous)
        commit = self.store.plan_stage(job.job_id, plan)
        self._publisher.publish(commit.messages)
        if not commit.applied:
            return Superseded(reason=f"stage {number} is already planned, or the job has ended")
        _tell_planned(job.job_id, plan)
        return Finished(result={"stage": number, "tasks": len(plan.tasks)})

    def _stage_plan(
        self, definition: JobDefinition[Any], parameters: BaseModel, number: int, previous: Sequence[TaskResult]
    ) -> StagePlan:
        stage = definition.stage(number, parameters)
        if stage.task_type not in self.handlers:
            raise UnknownTaskType(stage.task_type, list(self.handlers))
        usable = previous if definition.plans_with_failures else _usable(previous)
        return StagePlan(
            stage=number,
            name=stage.name,
            task_type=stage.task_type,
            runs_on=stage.runs_on,
            tasks=list(definition.plan(stage, parameters, usable)),
            max_attempts=stage.max_attempts,
        )

    def _finish(self, job: JobRecord, definition: JobDefinition[Any]) -> Outcome:
        results = self.store.stage_results(job.job_id, job.stage)
        parameters = validate(definition.parameters, job.parameters, subject=f"parameters of {job.job_type}")
        result = dict(definition.finalize(parameters, results))
        failed = sum(stage.failed for stage in self.store.list_stages(job.job_id))
        status = JobStatus.COMPLETED_WITH_ERRORS if failed else JobStatus.COMPLETED
        commit = self.store.finish_job(job.job_id, stage=job.stage, status=status, result=result)
        self._publisher.publish(commit.messages)
        if not commit.applied:
            return Superseded(reason="the job has already ended")
        logger.info("job finished", extra={"action": "job.finished", "job_id": job.job_id, "status": str(status)})
        return Finished(result=result)

    # Tasks

    def process_task_message(self, message: TaskMessage, *, stop: StopToken | None = None) -> dict[str, Any]:
        """Run a task and say how it ended as a plain mapping: ``{"success": bool, ...}``."""
        outcome = self.run_task(message, stop=stop or StopToken(), renew=None)
        match outcome:
            case Finished(result=result, last_in_stage=last):
                return {**result, "success": True, "task_id": message.task_id, "stage_complete": last}
            case Failed(error=error):
                return _failure(message, error)
            case RetryLater(error=error, delay=delay):
                return {**_failure(message, error), "retry_in_seconds": delay.total_seconds()}
            case Interrupted(reason=reason):
                return {"success": True, "interrupted": True, "task_id": message.task_id, "reason": str(reason)}
            case Superseded(reason=reason) | Deferred(reason=reason):
                return {"success": False, "task_id": message.task_id, "error": reason, "handler_executed": False}
            case Rejected(reason=reason, detail=detail):
                return {
                    "success": False,
                    "task_id": message.task_id,
                    "error": f"{reason}: {detail}",
                    "handler_executed": False,
                }
            case _:
                assert_never(outcome)

    def run_task(self, message: TaskMessage, *, stop: StopToken, renew: Renew | None = None) -> Outcome:
        """Claim a task, run its handler, and commit how it ended.

        Args:
            message: the hint; the row in the store says what to do.
            stop: asks this task to stop (the worker drains). The machine asks it too when the job is cancelled or the
                lease is lost.
            renew: extends the delivery's lock for as long as the task runs.
        """
        return self._tasks.run(message, stop=stop, renew=renew)

    def close(self) -> None:
        """End the heartbeat threads and the executor. Idempotent."""
        self._tasks.close()


def _tell_planned(job_id: str, plan: StagePlan) -> None:
    facts = {"job_id": job_id, "stage": plan.stage, "tasks": len(plan.tasks)}
    logger.info("stage planned", extra={"action": "stage.planned", **facts})


def _usable(results: Sequence[TaskResult]) -> Sequence[TaskResult]:
    """Only completed tasks have results to build on."""
    return [result for result in results if result.status is TaskStatus.COMPLETED]


def _failure(message: TaskMessage, error: ErrorInfo) -> dict[str, Any]:
    return {
        "success": False,
        "task_id": message.task_id,
        "error": error.message,
        "error_type": error.type,
        "error_code": error.code,
        "retryable": error.retryable,
    }


def _definition_error(error: Exception) -> ErrorInfo:
    code = error.code if isinstance(error, PermanentError) else None
    details = {"faults": [fault.as_dict() for fault in error.faults]} if isinstance(error, InvalidInput) else {}
    return ErrorInfo(type=type(error).__name__, message=str(error), retryable=False, code=code, details=details)
