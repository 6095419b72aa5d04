"""What people do from pages: each checked against other sites, done by the same functions as the API, and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from app.api.callbacks import MAX_ENTRY_ID
from app.dashboard.site import Site, caller_name, done, first
from core.errors import Conflict, Fault, InvalidInput
from core.messages import Channel

_MOST_REASON = 500


class Actions:
    """The POST routes of pages."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._application = site.application

    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        given = await self._site.form(request)
        job_id, reason = request.path_params["job_id"], first(given, "reason").strip()[:_MOST_REASON]
        by = f"cancelled by {caller_name(request)}"
        await run_in_threadpool(
            self._application.machine.cancel_job, job_id, reason=f"{by}: {reason}" if reason else by
        )
        await run_in_threadpool(
            self._site.record, request, "cancel", job_id=job_id, details={"reason": reason} if reason else {}
        )
        self._site.hub.poke()
        return done(request, f"/jobs/{job_id}", "The job is cancelled; running tasks are told to stop.")

    async def replay(self, request: Request) -> Response:
        """Run an ended job again at the chosen grain."""
        given = await self._site.form(request)
        job_id, grain = request.path_params["job_id"], _grain(given)
        job = await run_in_threadpool(
            self._application.machine.retry_job, job_id, **grain, submitted_by=caller_name(request)
        )
        await run_in_threadpool(
            self._site.record, request, "replay", job_id=job_id, target=job.job_id, details={"run": job.run, **grain}
        )
        self._site.hub.poke()
        return done(request, f"/jobs/{job.job_id}", f"Run {job.run} has begun.")

    async def replay_message(self, request: Request) -> Response:
        """Send an undelivered message again."""
        await self._site.form(request)
        entry_id = request.path_params["entry_id"]
        if entry_id > MAX_ENTRY_ID or not await run_in_threadpool(self._replay_message, entry_id):
            raise Conflict(f"message {entry_id} is not undelivered any more")
        await run_in_threadpool(self._application.relay.publish, ())
        await run_in_threadpool(self._site.record, request, "replay_message", target=str(entry_id))
        self._site.hub.poke()
        return done(request, "/callbacks", f"Message {entry_id} is sent again.")

    def _replay_message(self, entry_id: int) -> bool:
        return any(self._application.outbox.replay(channel, [entry_id]) for channel in Channel)

    async def replay_letter(self, request: Request) -> Response:
        """Put a dead letter, or all of a queue, back through the store."""
        given = await self._site.form(request)
        letters = self._site.dead_letters
        if letters is None:
            raise Conflict("this mode has no queues outside this process, so it has no dead letters")
        queue, number = request.path_params["queue"], first(given, "number")
        if number and not number.isdigit():
            raise InvalidInput("dead letter", [Fault("number", "must be a whole number", number[:50])])
        if number:
            answers = [await run_in_threadpool(letters.desk.replay, queue, int(number))]
        else:
            answers = list(await run_in_threadpool(letters.desk.replay_all, queue))
        await run_in_threadpool(self._application.relay.publish, ())
        await run_in_threadpool(
            self._site.record,
            request,
            "replay_dead_letter",
            target=f"{queue} {number or 'all'}",
            details={"letters": len(answers)},
        )
        return done(request, "/dead-letters", _told(answers))


def _told(answers: Sequence[Mapping[str, Any]]) -> str:
    if len(answers) == 1:
        return f"Done: {answers[0]['detail']}."
    sent = sum(bool(answer.get("replayed")) for answer in answers)
    return f"{sent} of {len(answers)} dead letters were sent again."


def _grain(given: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The grain that a replay form chose.

    Raises:
        InvalidInput: when a number is missing or none.
    """
    match first(given, "grain"):
        case "failed":
            return {}
        case "stage":
            return {"from_stage": _whole(given, "stage")}
        case "checkpoint":
            return {"from_checkpoint": _whole(given, "phase")}
        case other:
            raise InvalidInput("replay", [Fault("grain", "must be failed, stage or checkpoint", other[:50])])


def _whole(given: Mapping[str, Sequence[str]], name: str) -> int:
    text = first(given, name).strip()
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise InvalidInput("replay", [Fault(name, "must be a whole number", text[:50])])
    return int(text)
