"""The two statements of every task's life, claim and completion; those that come together share a commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from core.errors import StoreUnavailable
from core.records import Claim
from infrastructure.postgres.database import Connection, Database
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
        self._together: Together[Step, Rows | Exception] = Together(self._make_all)

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
        answer = self._together(step)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _make_all(self, steps: Sequence[Step]) -> Sequence[Rows | Exception]:
        try:
            return self._db.run(lambda connection: self._make_on(connection, steps))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the caller whose step it is
            if len(steps) == 1:
                return [error]
        # One of them is at fault: made alone, only that one fails.
        return [self._make_all([step])[0] for step in steps]

    def _make_on(self, connection: Connection, steps: Sequence[Step]) -> Sequence[Rows]:
        claims = [_claim_text(step) for step in steps if isinstance(step, ClaimStep)]
        completions = [_completion_text(step) for step in steps if isinstance(step, CompleteStep)]
        named = {**self._common, "claims": f"[{','.join(claims)}]", "completions": f"[{','.join(completions)}]"}
        answers: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
        for row in connection.execute(self._query, named).fetchall():
            done_id = row["done_id"]
            answers[row["claim_key"] if done_id is None else (done_id, row["done_attempt"])].append(row)
        return [answers.pop(_key(step), []) for step in steps]  # of a step that came twice, the first was made


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
