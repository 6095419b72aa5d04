"""The two statements of every task's life, claim and completion; those that come together share a commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from core.records import Claim
from infrastructure.postgres.database import Connection, Database, is_connection_fault
from infrastructure.postgres.queries import queries
from infrastructure.postgres.together import Together

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ClaimStep:
    """One claim call; ``claim_key`` names it."""

    task_id: str
    worker_id: str
    lease: timedelta
    claim_key: UUID


@dataclass(frozen=True, slots=True)
class CompleteStep:
    """One completion; ``result`` is JSON text."""

    claim: Claim
    result: str


Step = ClaimStep | CompleteStep


class TaskSteps:
    """Runs claims and completions.

    Args:
        database: where.
        common: parameters that every statement takes.
    """

    def __init__(self, database: Database, common: Mapping[str, Any]) -> None:
        self._db = database
        self._common = common
        self._tasks = queries("tasks")
        self._together = queries("together")
        self._run: Together[Step, Rows] = Together(self._run_all)

    def claim(self, step: ClaimStep) -> Mapping[str, Any] | None:
        """The claimed task's row, or None when it was not claimed."""
        found = self._run(step)
        return found[0] if found else None

    def complete(self, step: CompleteStep) -> Rows:
        """What the completion left: its stage's ``remaining`` (None when that is not 0 by this one) and outbox entries
        in the columns of ``app.outbox``. Empty when the claim is stale."""
        return self._run(step)

    def _run_all(self, steps: Sequence[Step]) -> Sequence[Rows]:
        return self._db.run(lambda connection: self._run_on(connection, steps))

    def _run_on(self, connection: Connection, steps: Sequence[Step]) -> Sequence[Rows]:
        if len(steps) > 1:
            try:
                return self._batch(connection, steps)
            except psycopg.Error as error:
                if is_connection_fault(error):
                    raise
                # One of them is at fault: alone, only that one fails. (Not seen; the guards refuse nothing legal.)
        return [self._alone(connection, step) for step in steps]

    def _alone(self, connection: Connection, step: Step) -> Rows:
        match step:
            case ClaimStep():
                named = {
                    "task_id": step.task_id,
                    "worker_id": step.worker_id,
                    "lease": step.lease,
                    "claim_key": step.claim_key,
                }
                return connection.execute(self._tasks["claim"], named).fetchall()
            case CompleteStep(claim=claim):
                named = {
                    **self._common,
                    "task_id": claim.task_id,
                    "attempt": claim.attempt,
                    "result": step.result,
                    "worker_id": claim.worker_id,
                }
                return connection.execute(self._tasks["complete"], named).fetchall()

    def _batch(self, connection: Connection, steps: Sequence[Step]) -> Sequence[Rows]:
        claims = [step for step in steps if isinstance(step, ClaimStep)]
        done = [step for step in steps if isinstance(step, CompleteStep)]
        found = connection.execute(
            self._together["claim_and_complete"],
            {
                "hold_jobs": self._common["hold_jobs"],
                "hold_callbacks": self._common["hold_callbacks"],
                "claim_ids": [step.task_id for step in claims],
                "claim_workers": [step.worker_id for step in claims],
                "leases": [step.lease for step in claims],
                "claim_keys": [step.claim_key for step in claims],
                "done_ids": [step.claim.task_id for step in done],
                "attempts": [step.claim.attempt for step in done],
                "results": [step.result for step in done],
                "done_workers": [step.claim.worker_id for step in done],
            },
        ).fetchall()
        answers: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
        for row in found:
            done_id = row["done_id"]
            answers[row["claim_key"] if done_id is None else (done_id, row["done_attempt"])].append(row)
        return [answers.pop(_key(step), []) for step in steps]  # of a step that came twice, the first was made


def _key(step: Step) -> object:
    match step:
        case ClaimStep(claim_key=claim_key):
            return claim_key
        case CompleteStep(claim=claim):
            return claim.task_id, claim.attempt
