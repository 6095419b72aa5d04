"""The two statements of every task's life, claim and completion; those that come together share a commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from core.errors import StoreUnavailable
from core.records import Claim
from infrastructure.postgres.database import Cursor, Database
from infrastructure.postgres.jsonb import dumps
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


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """A step and how the statement is given it: an element of a JSON array."""

    step: Step
    text: str

    @classmethod
    def of(cls, step: Step) -> WrittenStep:
        """``step``, written."""
        match step:
            case ClaimStep():
                return cls(step, _claim_text(step))
            case CompleteStep():
                return cls(step, _completion_text(step))


class TaskSteps:
    """Runs claims and completions.

    Args:
        database: where.
        common: the parameters of ``app.claim_and_complete`` that are the same for every call.
    """

    def __init__(self, database: Database, common: Mapping[str, Any]) -> None:
        self._db = database
        self._common = {name: common[name] for name in ("hold_jobs", "hold_callbacks")}
        self._query = queries("tasks")["claim_and_complete"]
        self._together: Together[WrittenStep, Rows | Exception] = Together(self._make_all)

    def claim(self, step: ClaimStep) -> Mapping[str, Any] | None:
        """The claimed task's row, or None when it was not claimed."""
        found = self._make(step)
        return found[0] if found else None

    def complete(self, step: CompleteStep) -> Rows:
        """What the completion left: outbox entries, and ``remaining`` 0 when it was its stage's last.

        Empty when the claim is stale, or when this very completion was made before.
        """
        return self._make(step)

    def _make(self, step: Step) -> Rows:
        answer = self._together(WrittenStep.of(step))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _make_all(self, steps: Sequence[WrittenStep]) -> Callable[[], Sequence[Rows | Exception]]:
        try:
            cursor = self._db.run(lambda connection: connection.execute(self._query, self._parameters(steps)))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the caller whose step it is
            if len(steps) == 1:
                at_fault: list[Rows | Exception] = [error]
                return lambda: at_fault
        else:
            return lambda: _answers(cursor, steps)
        # One of them is at fault: made alone, only that one fails.
        alone = [self._make_all([step]) for step in steps]
        return lambda: [answer for read in alone for answer in read()]

    def _parameters(self, steps: Sequence[WrittenStep]) -> Mapping[str, Any]:
        claims = ",".join(step.text for step in steps if isinstance(step.step, ClaimStep))
        completions = ",".join(step.text for step in steps if isinstance(step.step, CompleteStep))
        return {**self._common, "claims": f"[{claims}]", "completions": f"[{completions}]"}


def _answers(cursor: Cursor, steps: Sequence[WrittenStep]) -> Sequence[Rows]:
    answers: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
    for row in cursor.fetchall():
        done_id = row["done_id"]
        answers[row["claim_key"] if done_id is None else (done_id, row["done_attempt"])].append(row)
    return [answers.pop(_key(step.step), []) for step in steps]  # of a step that came twice, the first was made


def _key(step: Step) -> object:
    match step:
        case ClaimStep(claim_key=claim_key):
            return claim_key
        case CompleteStep(claim=claim):
            return claim.task_id, claim.attempt


def _claim_text(step: ClaimStep) -> str:
    return dumps(
        {
            "task_id": step.task_id,
            "worker_id": step.worker_id,
            "lease_seconds": step.lease.total_seconds(),
            "claim_key": str(step.claim_key),
        }
    )


def _completion_text(step: CompleteStep) -> str:
    ids = {"task_id": step.claim.task_id, "attempt": step.claim.attempt, "worker_id": step.claim.worker_id}
    return f'{dumps(ids)[:-1]},"result":{step.result}}}'
