"""Job definitions: which stages a job has, how each is planned, and how its results come together."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from core.errors import ConfigurationError, Fault, UnknownJobType
from core.handlers import HandlerRegistry
from core.messages import Channel
from core.records import FailurePolicy, RunsOn, TaskPlan, TaskResult


class JobParameters(BaseModel):
    """Base of every job's and handler's parameters: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


P = TypeVar("P", bound=BaseModel)

ANY_TASK = "*"
"""The task type of a stage whose job names it in its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a job. Stages run in order; all tasks of one stage have one task type."""

    number: int
    name: str
    task_type: str
    runs_on: RunsOn = RunsOn.DOCKER
    max_attempts: int = 3


class JobDefinition(ABC, Generic[P]):
    """A type of job. Stateless: one instance serves every job of its type."""

    job_type: ClassVar[str]
    description: ClassVar[str] = ""
    stages: ClassVar[tuple[Stage, ...]]
    failure_policy: ClassVar[FailurePolicy] = FailurePolicy.FAIL_FAST
    plans_with_failures: ClassVar[bool] = False
    """Whether :meth:`plan` also gets the results of tasks that failed (only jobs that collect have any)."""
    plans_at_submission: ClassVar[bool] = False
    """Whether the first stage is planned as the job is accepted, in the same transaction, which saves a message and a
    commit: for a plan of a few tasks that follow from the parameters alone. Whoever submits waits for it."""
    parameters: type[P]

    @abstractmethod
    def plan(self, stage: Stage, parameters: P, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """The tasks of ``stage``, given the results of the stage before it (in order of index; empty for the first).

        Those are of completed tasks alone, unless :attr:`plans_with_failures`.

        Must be deterministic: it may be called again after a crash. An empty plan is legal and completes the stage.
        """

    def stage(self, number: int, parameters: P) -> Stage:  # noqa: ARG002 - jobs whose parameters choose override this
        """The stage of that number for a job with these parameters."""
        return self.stages[number - 1]

    def policy(self, parameters: P) -> FailurePolicy:  # noqa: ARG002 - jobs whose parameters choose override this
        """The failure policy of a job with these parameters."""
        return self.failure_policy

    def finalize(self, parameters: P, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """The job's result from the results of its last stage (in order of index)."""
        return {"tasks": [dict(result.result_data or {}) for result in results]}


class JobRegistry(Mapping[str, JobDefinition[Any]]):
    """Job types by name, aliases included. A value: built once, passed in, never changed."""

    def __init__(self, definitions: Iterable[JobDefinition[Any]], aliases: Mapping[str, str] | None = None) -> None:
        self._definitions: dict[str, JobDefinition[Any]] = {}
        for definition in definitions:
            if definition.job_type in self._definitions:
                raise ConfigurationError(
                    "job registry",
                    [Fault("job_type", f"{definition.job_type!r} is registered twice", definition.job_type)],
                )
            self._definitions[definition.job_type] = definition
        self.aliases = dict(aliases or {})

    def __getitem__(self, job_type: str) -> JobDefinition[Any]:
        try:
            return self._definitions[self.aliases.get(job_type, job_type)]
        except KeyError:
            raise UnknownJobType(job_type, [*self._definitions, *self.aliases]) from None

    def __contains__(self, job_type: object) -> bool:
        return job_type in self._definitions or job_type in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)


def check_registries(jobs: JobRegistry, handlers: HandlerRegistry, routes: frozenset[Channel] | None = None) -> None:
    """Refuse to start unless every stage of every job has a handler and, when ``routes`` is given, a way to it.

    Raises:
        ConfigurationError: naming every stage at fault.
    """
    faults: list[Fault] = []
    for job_type, definition in jobs.items():
        if not definition.stages:
            faults.append(Fault(job_type, "has no stages"))
        numbers = [stage.number for stage in definition.stages]
        if numbers != list(range(1, len(numbers) + 1)):
            faults.append(Fault(job_type, "stages must be numbered 1, 2, 3, …", numbers))
        for stage in definition.stages:
            where = f"{job_type} stage {stage.number} ({stage.name})"
            if stage.task_type != ANY_TASK and stage.task_type not in handlers:
                faults.append(Fault(where, f"no handler for task type {stage.task_type!r}", stage.task_type))
            if routes is not None and stage.runs_on.channel not in routes:
                faults.append(Fault(where, f"no route to {stage.runs_on}", stage.runs_on))
    faults += [
        Fault(alias, f"alias of unknown job type {job_type!r}", job_type)
        for alias, job_type in jobs.aliases.items()
        if job_type not in jobs
    ]
    if faults:
        raise ConfigurationError("jobs and handlers do not fit together", faults)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, the same for equal values; refuses NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def job_fingerprint(job_type: str, parameters: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of job type and canonical parameters: the id of the job's first run."""
    return hashlib.sha256(canonical_json([job_type, dict(parameters)]).encode()).hexdigest()


def job_run_id(fingerprint: str, run: int) -> str:
    """The id of the ``run``-th run (1 is the first, and has the fingerprint itself)."""
    return fingerprint if run == 1 else hashlib.sha256(f"{fingerprint}|run{run}".encode()).hexdigest()


def task_id(job_id: str, stage: int, index: int) -> str:
    """The id of the task at ``index`` of ``stage``: planning a stage again names the same tasks (40 hex digits)."""
    return hashlib.sha256(f"{job_id}|s{stage}|t{index}".encode()).hexdigest()[:40]
