"""Dead letters as an operator works with them: shown with what the store knows, replayed through the store, purged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never

from core.errors import (
    Conflict,
    DeadLetterNotFound,
    Fault,
    InvalidInput,
    StoreUnavailable,
)
from core.messages import JobMessage, Message, StageComplete, TaskEnded, TaskMessage
from core.ports import StateStore
from infrastructure.postgres.hints import PostgresHints

if TYPE_CHECKING:
    from transports.service_bus.dead_letters import DeadLetterQueue, DeadLetterRecord

_SHOWN_BODY = 16_384


class DeadLetters:
    """The dead letters of every queue that the settings name.

    All methods raise :class:`~core.errors.TransportUnavailable` when the queue's service cannot be reached.
    """

    def __init__(self, queues: Sequence[DeadLetterQueue], store: StateStore, hints: PostgresHints) -> None:
        self._queues = {queue.queue: queue for queue in queues}
        self._store = store
        self._hints = hints

    @property
    def queues(self) -> Sequence[str]:
        """The names of the queues."""
        return list(self._queues)

    def list_letters(self, queue: str | None = None, *, limit: int = 100, after: int = 0) -> list[dict[str, Any]]:
        """Letters of one queue, or of all: reason, task, job, age, and the task's status in the store.

        Raises:
            InvalidInput: when there is no such queue, or ``after`` is given without one.
        """
        if queue is None and after:
            raise InvalidInput("dead letters", [Fault("after", "needs a queue: each queue has its own numbers", after)])
        names = self.queues if queue is None else [queue]
        found = [letter for name in names for letter in self._queue(name).peek(limit=limit, after=after)]
        return [self._view(letter) for letter in found[:limit]]

    def show(self, queue: str, number: int) -> dict[str, Any]:
        """One letter with its body and properties.

        Raises:
            DeadLetterNotFound: when there is no such letter.
            InvalidInput: when there is no such queue.
        """
        letter = self._get(queue, number)
        body = letter.body[:_SHOWN_BODY].decode(errors="replace")
        return {
            **self._view(letter),
            "properties": dict(letter.properties),
            "body": body,
            "body_bytes": len(letter.body),
        }

    def replay(self, queue: str, number: int) -> dict[str, Any]:
        """Put what a letter is about back through the store, then take the letter out.

        A waiting task or job gets a new hint from the outbox. One that runs or has ended needs none.

        Raises:
            DeadLetterNotFound: when there is no such letter.
            Conflict: when the letter cannot be read or the store does not know what it names; it is left where it is.
            InvalidInput: when there is no such queue.
            StoreUnavailable: when the store cannot be reached; the letter is left where it is.
        """
        letter = self._get(queue, number)
        verdict = self._put_back(letter)
        self._queue(queue).remove([number])  # after the commit: dying in between leaves a letter, not a hole
        return {"queue": queue, "number": number, **verdict}

    def replay_all(self, queue: str, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Replay every letter of a queue; those that cannot be are left, and say why."""
        answers: list[dict[str, Any]] = []
        done: list[int] = []
        for letter in self._queue(queue).peek(limit=limit):
            answer: dict[str, Any] = {"queue": queue, "number": letter.number}
            try:
                answer |= self._put_back(letter)
                done.append(letter.number)
            except Conflict as error:
                answer |= {"replayed": False, "detail": str(error)}
            answers.append(answer)
        if done:
            self._queue(queue).remove(done)
        return answers

    def remove(self, queue: str, number: int) -> None:
        """Take one letter out for good. Raises DeadLetterNotFound when it is not there."""
        if not self._queue(queue).remove([number]):
            raise DeadLetterNotFound(queue, number)

    def purge(self, queue: str) -> int:
        """Take every letter of a queue out for good. Tasks that wait get new hints from the sweeper all the same."""
        return self._queue(queue).purge()

    def _queue(self, name: str) -> DeadLetterQueue:
        if name not in self._queues:
            raise InvalidInput("dead letters", [Fault("queue", f"must be one of {', '.join(self._queues)}", name)])
        return self._queues[name]

    def _get(self, queue: str, number: int) -> DeadLetterRecord:
        letter = self._queue(queue).get(number)
        if letter is None:
            raise DeadLetterNotFound(queue, number)
        return letter

    def _put_back(self, letter: DeadLetterRecord) -> dict[str, Any]:
        match letter.message:
            case TaskMessage(task_id=task_id):
                return self._put_task_back(task_id)
            case JobMessage(job_id=job_id) | StageComplete(job_id=job_id):
                return self._put_job_back(job_id)
            case TaskEnded() | None:
                raise Conflict(
                    f"dead letter {letter.number} of {letter.queue} is no message that can be replayed: look at it, "
                    "mend its sender, and purge it"
                )
            case message:
                assert_never(message)

    def _put_task_back(self, task_id: str) -> dict[str, Any]:
        replayed = self._hints.hint_task(task_id)
        task = self._store.get_task(task_id)
        if task is None:
            raise Conflict(f"the store knows no task {task_id}; the letter can only be purged")
        detail = "its message is sent again" if replayed else _no_hint_needed("task", task.status)
        return {"replayed": replayed, "task_id": task_id, "job_id": task.job_id, "detail": detail}

    def _put_job_back(self, job_id: str) -> dict[str, Any]:
        replayed = self._hints.hint_job(job_id)
        job = self._store.get_job(job_id)
        if job is None:
            raise Conflict(f"the store knows no job {job_id}; the letter can only be purged")
        detail = "its message is sent again" if replayed else _no_hint_needed("job", job.status)
        return {"replayed": replayed, "job_id": job_id, "detail": detail}

    def _view(self, letter: DeadLetterRecord) -> dict[str, Any]:
        age = datetime.now(UTC) - letter.enqueued_at if letter.enqueued_at is not None else None
        return {
            "queue": letter.queue,
            "number": letter.number,
            "reason": letter.reason,
            "description": letter.description,
            "message_id": letter.message_id,
            "enqueued_at": letter.enqueued_at.isoformat() if letter.enqueued_at is not None else None,
            "age_seconds": round(age.total_seconds(), 1) if age is not None else None,
            "delivery_count": letter.delivery_count,
            **self._about(letter.message),
        }

    def _about(self, message: Message | None) -> Mapping[str, Any]:
        about: dict[str, Any] = {
            "message_type": message.message_type if message is not None else None,
            "task_id": None,
            "task_type": None,
            "job_id": None,
            "state": None,
        }
        match message:
            case TaskMessage() | TaskEnded():
                about |= {"task_id": message.task_id, "job_id": message.parent_job_id}
            case JobMessage() | StageComplete():
                about |= {"job_id": message.job_id}
            case None:
                return about
            case _:
                assert_never(message)
        if isinstance(message, TaskMessage):
            about["task_type"] = message.task_type
        about["state"] = self._state(about["task_id"], about["job_id"])
        return about

    def _state(self, task_id: str | None, job_id: str) -> str | None:
        """What the store says of the task, or of the job; None when it cannot be asked now."""
        try:
            known = self._store.get_task(task_id) if task_id is not None else self._store.get_job(job_id)
        except StoreUnavailable:
            return None
        return str(known.status) if known is not None else "unknown"


def _no_hint_needed(kind: str, status: str) -> str:
    match status:
        case "pending" | "queued":
            return f"the {kind} waits and its message is on its way already"
        case "processing":
            return f"the {kind} is being worked on"
        case "failed" | "cancelled":
            return f"the {kind} is {status}: nothing was sent; run its job again with geoworker retry"
        case _:
            return f"the {kind} is {status}: there is nothing to do again"
