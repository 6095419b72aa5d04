"""Running an ended job again (``infrastructure/postgres/sql/replay.sql``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from core.errors import Conflict, JobNotFound
from core.jobs import job_run_id, task_id
from core.records import Commit, JobRecord
from core.replay import check_grain, no_such_checkpoint
from core.states import TERMINAL_JOB_STATUSES, JobStatus, TaskStatus
from testing.memory.rows import JobRow, StageRow, TaskRow
from testing.memory.tables import Tables, atomic


class ReplayStatements(Tables):
    """The part of the StateStore port that is about replays."""

    @atomic
    def replay_job(
        self,
        job_id: str,
        *,
        from_stage: int | None = None,
        from_checkpoint: int | None = None,
        submitted_by: str | None = None,
    ) -> tuple[JobRecord, Commit]:
        check_grain(from_stage, from_checkpoint)
        old = self._jobs.get(job_id)
        if old is None:
            raise JobNotFound(job_id)
        self._check_replayable(old)
        grain = self._grain(old, from_stage, from_checkpoint)
        kept = grain.kept
        now = self.clock.now()
        run = old.run + 1
        new = JobRow(
            job_id=job_run_id(old.fingerprint, run),
            fingerprint=old.fingerprint,
            run=run,
            job_type=old.job_type,
            status=JobStatus.QUEUED if kept == 0 else JobStatus.PROCESSING,
            stage=kept,
            total_stages=old.total_stages,
            parameters=old.parameters,
            failure_policy=old.failure_policy,
            replay_of=job_id,
            submitted_by=submitted_by,
            traceparent=old.traceparent,
            created_at=now,
            updated_at=now,
            started_at=now if kept else None,
            next_hint_at=now + self.hint_interval,
        )
        self._add_job(new)
        self._note("replay_job", now, job_id=new.job_id, replay_of=job_id)
        for number in range(1, kept + 1):
            stage = self._stages[job_id].get(number)
            if stage is not None:
                self._carry_stage(stage, new, grain, now)
        self._hint_replay(new, now)
        return new.record(), Commit()

    def _check_replayable(self, old: JobRow) -> None:
        latest = self._runs[old.fingerprint][-1]
        if latest is not old:
            raise Conflict(f"job {old.job_id} was already followed by run {latest.job_id}; retry that one")
        if old.status not in TERMINAL_JOB_STATUSES:
            raise Conflict(f"job {old.job_id} is {old.status}; only an ended job can be run again")

    def _grain(self, old: JobRow, from_stage: int | None, from_checkpoint: int | None) -> _Grain:
        if from_stage is not None:
            if 1 <= from_stage <= max(old.stage, 1):
                return _Grain(kept=from_stage - 1, redo=False)
            raise Conflict(
                f"job {old.job_id} reached stage {old.stage}; it cannot be run again from stage {from_stage}"
            )
        if from_checkpoint is None and old.status is JobStatus.COMPLETED:
            raise Conflict(f"job {old.job_id} is completed and has no failed task to run again")
        tasks = list(self._job_tasks(old.job_id))
        first_open = min((task.stage for task in tasks if task.status is not TaskStatus.COMPLETED), default=None)
        if from_checkpoint is None:
            return _Grain(kept=first_open or old.stage, redo=True)
        again = [task for task in tasks if task.stage == first_open and task.status is not TaskStatus.COMPLETED]
        furthest = max((task.checkpoint_phase or 0 for task in (again if first_open else tasks)), default=0)
        saved = [task.stage for task in tasks if _saved(task, from_checkpoint)]
        kept = first_open or max(saved, default=None)
        if kept is None or furthest < from_checkpoint:
            raise no_such_checkpoint(old.job_id, from_checkpoint, furthest)
        return _Grain(kept=kept, redo=True, phase=from_checkpoint, saved_again=first_open is None)

    def _carry_stage(self, old: StageRow, job: JobRow, grain: _Grain, now: datetime) -> None:
        stage = StageRow(
            job_id=job.job_id,
            stage=old.stage,
            name=old.name,
            task_type=old.task_type,
            runs_on=old.runs_on,
            total=old.total,
            remaining=0,
            failed=0 if grain.redo else old.failed,
            created_at=now,
        )
        self._stages[job.job_id][old.stage] = stage
        for task in old.tasks:
            self._add_task(stage, _carried(task, job.job_id, grain, now, now + self.hint_interval))
        stage.remaining = sum(task.status is TaskStatus.PENDING for task in stage.tasks)
        stage.finished_at = None if stage.remaining else old.finished_at or now

    def _hint_replay(self, job: JobRow, now: datetime) -> None:
        waiting = [task for task in self._job_tasks(job.job_id) if task.status is TaskStatus.PENDING]
        for task in waiting:
            self._hint(task, now, now)
        if not waiting:
            message = job.message() if job.stage == 0 else self._stage_complete(job, job.stage, None, now)
            self._send_job_message(job, message, now, held=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grain:
    """The stages that are kept, whether what did not complete in them is done again, and from which phase."""

    kept: int
    redo: bool
    phase: int | None = None
    saved_again: bool = False  # the tasks of the last kept stage that saved the phase, though they completed

    def keeps(self, task: TaskRow) -> bool:
        """Whether a task is carried over as it is."""
        if not self.redo:
            return True
        again = self.saved_again and task.stage == self.kept and self.phase is not None and _saved(task, self.phase)
        return task.status is TaskStatus.COMPLETED and not again


def _carried(task: TaskRow, job_id: str, grain: _Grain, now: datetime, next_hint_at: datetime) -> TaskRow:
    """A completed task (and every task of a stage that is not done again) as it is; else a fresh one, at its
    checkpoint."""
    keep = grain.keeps(task)
    fresh = TaskRow(
        task_id=task_id(job_id, task.stage, task.task_index),
        job_id=job_id,
        job_type=task.job_type,
        task_type=task.task_type,
        stage=task.stage,
        task_index=task.task_index,
        runs_on=task.runs_on,
        parameters=task.parameters,
        max_attempts=task.max_attempts,
        timeout_seconds=task.timeout_seconds,
        callback_url=task.callback_url,
        traceparent=task.traceparent,
        checkpoint=task.checkpoint,
        checkpoint_updated_at=task.checkpoint_updated_at,
        created_at=now,
        updated_at=now,
        next_hint_at=next_hint_at,
    )
    if not keep:
        fresh.items = {phase: dict(items) for phase, items in task.items.items()}
        if grain.phase is not None and (task.checkpoint_phase or 0) >= grain.phase:
            _take_back(fresh, grain.phase)
        return fresh
    return replace(
        fresh,
        status=task.status,
        attempt=task.attempt,
        failures=task.failures,
        interruptions=task.interruptions,
        result_data=task.result_data,
        error_details=task.error_details,
        progress=task.progress,
        progress_at=task.progress_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
    )


def _take_back(task: TaskRow, phase: int) -> None:
    """Forget what was saved after ``phase``."""
    task.items = {number: items for number, items in task.items.items() if number <= phase}
    if task.checkpoint is not None:
        artifacts = {path: facts for path, facts in task.checkpoint.artifacts.items() if facts["phase"] <= phase}
        task.checkpoint = replace(task.checkpoint, phase=phase, cursor=None, artifacts=artifacts) if phase else None


def _saved(task: TaskRow, phase: int) -> bool:
    return task.checkpoint_phase is not None and task.checkpoint_phase >= phase
