"""One task on one child: sends it, listens, asks it to stop when it must, ends it when it does not listen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from core.errors import ClaimLost, ErrorInfo
from core.ports import Execution, Raised, Stopped
from core.records import Claim
from core.stopping import StopReason, StopToken
from infrastructure.process_executor.child import ChildProcess, Exit
from infrastructure.process_executor.codec import claim_to_json, execution_from_json
from infrastructure.process_executor.framing import ChannelBroken, Frame
from infrastructure.process_executor.log_forwarding import emit_in_worker
from infrastructure.process_executor.postmortem import crash, ended_by_us
from infrastructure.telemetry.context import claim_ids, current_traceparent
from infrastructure.watchdogs import MemoryWatch, StallWatch

logger = logging.getLogger("geoworker.executor")

_TICK_SECONDS = 1.0
_KILL_PATIENCE_SECONDS = 10.0
_ZOMBIE_GRACE_SECONDS = 2.0
_DUMP_SECONDS = 0.5


class ChildGone(Exception):
    """The child died before it began the task: nothing has happened yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionRules:
    """How long things may take, in seconds.

    ``grace`` is the time between asking a handler to stop and ending it; ``stall`` the time without progress after
    which a task is reported, and with ``stall_kills`` ended.
    """

    grace: float = 20.0
    stall: float | None = None
    stall_kills: bool = False


class Supervision:
    """Lives for one task."""

    def __init__(
        self,
        child: ChildProcess,
        claim: Claim,
        stop: StopToken,
        deadline: datetime | None,
        *,
        rules: SupervisionRules,
        memory: MemoryWatch,
        over_memory: Callable[[ChildProcess], bool],
        closing: Callable[[], bool],
        on_stall: Callable[[], None] = lambda: None,
    ) -> None:
        self._child = child
        self._claim = claim
        self._stop = stop
        self._rules = rules
        self._memory = memory
        self._over_memory = over_memory
        self._closing = closing
        self._on_stall = on_stall
        self._run = child.tasks + 1
        self._stall = StallWatch(rules.stall)
        self._deadline = None
        if deadline is not None:
            self._deadline = time.monotonic() + (deadline - datetime.now(UTC)).total_seconds()
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._dump_until: float | None = None
        self._next_look = time.monotonic() + _TICK_SECONDS
        self._oom_before = memory.oom_kills()
        self._ids = claim_ids(claim)
        self._begun = False
        self.left: list[str] = []
        self.spoilt = False

    def execute(self) -> Execution:
        """Run the task to its end.

        Raises:
            ChildGone: when the child died before it began the task, which can be given to another.
            ClaimLost: when another attempt owns the task.
        """
        child = self._child
        child.output.begin(self._ids)
        child.wait(0)
        if child.exit is not None:
            raise ChildGone
        try:
            child.control.send(
                {
                    "type": "run",
                    "run": self._run,
                    "claim": claim_to_json(self._claim),
                    "traceparent": current_traceparent() or self._claim.task.traceparent,
                }
            )
        except ChannelBroken as error:
            raise ChildGone from error
        child.tasks = self._run
        unsubscribe = self._stop.subscribe(lambda reason: child.send_stop(self._run, reason))
        try:
            return self._listen()
        except ChannelBroken as error:  # the runner is alive, but what it says makes no sense
            self.spoilt = True
            child.kill()
            return Raised(
                error=ErrorInfo(
                    type="ProtocolViolation",
                    message=f"the handler's process broke the protocol: {error}",
                    retryable=True,
                    details={"last_log_lines": child.output.last_lines()},
                )
            )
        finally:
            unsubscribe()

    def _listen(self) -> Execution:
        while True:
            if (execution := self._result()) is not None:
                return execution
            if self._child.exit is not None:
                return self._post_mortem(self._child.exit)
            if (execution := self._look()) is not None:
                return execution
            self._child.wait(self._next_event())

    def _result(self) -> Execution | None:
        for frame in self._child.frames():
            match frame["type"]:
                case "activity":
                    self._stall.progressed()
                case "log":
                    self._log(frame)
                case "ready":
                    continue
                case "began" if frame.get("run") == self._run:
                    self._begun = True
                case _ if frame.get("run") == self._run:
                    return self._conclude(frame)
                case _:
                    raise ChannelBroken(f"an unexpected {frame['type']!r} frame")
        return None

    def _conclude(self, frame: Frame) -> Execution:
        self._child.rss = frame.get("rss")
        self.left = [str(what) for what in frame.get("left", ())]
        if frame.get("stop_reason") is not None:  # perhaps the handler listened to an event of its own
            self._stop.request(StopReason(frame["stop_reason"]))
        if frame["type"] == "claim_lost":
            raise ClaimLost(self._claim.task_id, self._claim.attempt)
        return execution_from_json(frame)

    def _log(self, frame: Frame) -> None:
        try:
            emit_in_worker(frame, self._ids)
        except (KeyError, TypeError, ValueError) as error:
            raise ChannelBroken(f"a malformed log frame: {error!r}") from error

    def _look(self) -> Execution | None:
        """What time has brought: deadline, stop, stall, memory."""
        now = time.monotonic()
        if self._closing():
            self._stop.request(StopReason.DRAIN)
            self._kill_at = now
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._stop.request(StopReason.TIMEOUT)
        if self._stop.requested and self._kill_at is None:
            self._kill_at = now + self._grace()
        if self._kill_at is not None and now >= self._kill_at and self._killed_at is None:
            self._killed_at = now
            self._child.kill()
        if self._killed_at is not None and now >= self._killed_at + _KILL_PATIENCE_SECONDS:
            self.spoilt = True
            logger.error("the handler's process cannot be killed", extra={"action": "child.unkillable", **self._ids})
            return self._post_mortem(Exit(None, None, killed=True, strays=0))
        self._look_for_stall(now)
        if now >= self._next_look:
            self._next_look = now + _TICK_SECONDS
            if not self._stop.requested and self._over_memory(self._child):
                logger.warning("memory is short; the task must stop", extra={"action": "task.memory", **self._ids})
                self._stop.request(StopReason.MEMORY)
        return None

    def _look_for_stall(self, now: float) -> None:
        if self._stall.stalled():
            self._dump_until = now + _DUMP_SECONDS
            self._on_stall()
            self._child.dump_stacks()
        elif self._dump_until is not None and now >= self._dump_until:
            self._dump_until = None
            logger.warning(
                "no progress for %.0f s; the stacks of the handler's process:\n%s",
                self._stall.silent_for(),
                "\n".join(self._child.output.last_lines()),
                extra={"action": "task.stalled", **self._ids},
            )
            if self._rules.stall_kills:
                self._stop.request(StopReason.STALLED)

    def _next_event(self) -> float:
        now = time.monotonic()
        moments = [self._next_look - now]
        if self._deadline is not None:
            moments.append(self._deadline - now)
        if self._kill_at is not None and self._killed_at is None:
            moments.append(self._kill_at - now)
        if self._dump_until is not None:
            moments.append(self._dump_until - now)
        if (stall := self._stall.due_in()) is not None:
            moments.append(stall)
        return max(0.0, min(moments))

    def _grace(self) -> float:
        if self._stop.reason is StopReason.LEASE_LOST:  # its successor may run already
            return min(_ZOMBIE_GRACE_SECONDS, self._rules.grace)
        return self._rules.grace

    def _post_mortem(self, end: Exit) -> Execution:
        self._child.drain()
        if (execution := self._last_words()) is not None:
            return execution
        if not self._begun and self._killed_at is None:
            raise ChildGone
        self._child.output.wait_end(1.0)
        lines = self._child.output.last_lines()
        reason = self._stop.reason
        if self._killed_at is not None and reason is not None:
            if self._closing():
                return Stopped(detail="the executor was closed")
            return ended_by_us(self._claim, reason, end, grace=self._grace(), lines=lines)
        oom_kills = self._memory.oom_kills() - self._oom_before
        return crash(end, oom_kills=oom_kills, memory_limit=self._memory.limit, lines=lines)

    def _last_words(self) -> Execution | None:
        """A result that was sent whole before the end counts; half a frame does not."""
        try:
            return self._result()
        except ChannelBroken:
            return None


def describe_claim(claim: Claim) -> dict[str, Any]:
    """What health says of a running task."""
    return {"task_id": claim.task_id, "task_type": claim.task.task_type, "attempt": claim.attempt}
