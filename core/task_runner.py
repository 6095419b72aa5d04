"""One task from its claim to its recorded end."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar, assert_never

from core.errors import ClaimLost, ErrorInfo, StoreUnavailable
from core.handlers import HandlerRegistry
from core.heartbeat import Heartbeat, HeartbeatCounts, Renew
from core.machine_options import MachineOptions
from core.messages import TaskMessage
from core.outcome import Deferred, Failed, Finished, Interrupted, Outcome, Rejected, RetryLater, Superseded
from core.ports import Execution, MessagePublisher, Raised, Returned, StateStore, Stopped, TaskExecutor
from core.records import Claim, NotClaimed
from core.retry import Backoff
from core.stopping import StopReason, StopToken, stop_error

logger = logging.getLogger(__name__)
T = TypeVar("T")


class TaskRunner:
    """Claims tasks, runs their handlers, and commits how they ended. Thread-safe."""

    def __init__(
        self,
        *,
        handlers: HandlerRegistry,
        store: StateStore,
        publisher: MessagePublisher,
        executor: TaskExecutor,
        options: MachineOptions,
        rng: random.Random,
    ) -> None:
        self._handlers = dict(handlers)
        self._store = store
        self.executor = executor
        self._publisher = publisher
        self._options = options
        self._rng = rng
        self.heartbeat_counts = HeartbeatCounts()
        self._heartbeats: deque[Heartbeat] = deque()  # those that look after nothing now

    def run(self, message: TaskMessage, *, stop: StopToken, renew: Renew | None = None) -> Outcome:
        """See :meth:`core.machine.CoreMachine.run_task`."""
        if message.task_type not in self._handlers:
            return Rejected(
                reason="UnknownTaskType",
                detail=f"no handler for {message.task_type!r} here; known: {', '.join(sorted(self._handlers))}",
            )
        try:
            claim = self._store.claim_task(
                message.task_id, worker_id=self._options.worker_id, lease=self._options.lease
            )
        except StoreUnavailable as error:
            return Deferred(delay=self._options.store_retry, reason=str(error))
        if isinstance(claim, NotClaimed):
            if not claim.known:
                return Rejected(reason="UnknownTask", detail=f"the store knows no task {message.task_id}")
            return Superseded(reason=claim.reason)
        if stop.requested:
            return self._release(claim, stop.reason or StopReason.DRAIN)
        return self._run_claimed(claim, stop, renew)

    def _run_claimed(self, claim: Claim, stop: StopToken, renew: Renew | None) -> Outcome:
        _tell(logging.INFO, "started", claim)
        heartbeat = self._take_heartbeat()
        heartbeat.start(claim, stop, renew)
        try:
            execution = self.executor.execute(claim, stop=stop, deadline=self._deadline(claim))
            heartbeat.expect_end()
            return self._record_patiently(stop, lambda: self._record(claim, stop, execution))
        except ClaimLost:
            _tell(logging.WARNING, "superseded", claim)
            return Superseded(reason="another attempt owns the task")
        except StoreUnavailable as error:
            return Deferred(delay=self._options.store_retry, reason=f"the end could not be recorded: {error}")
        finally:
            heartbeat.finish()
            self._heartbeats.append(heartbeat)

    def _deadline(self, claim: Claim) -> datetime | None:
        seconds = claim.task.timeout_seconds
        if seconds is None and (spec := self._handlers.get(claim.task.task_type)) is not None:
            seconds = spec.timeout_seconds
        limit = self._options.task_timeout if seconds is None else timedelta(seconds=seconds)
        return None if limit is None else datetime.now(UTC) + limit

    def _record_patiently(self, stop: StopToken, record: Callable[[], T]) -> T:
        """Work that is done must not be lost to a database that restarts: try to record it for a long while."""
        give_up_at = time.monotonic() + self._options.record_patience.total_seconds()
        tries = 0
        while True:
            try:
                return record()
            except StoreUnavailable:
                tries += 1
                if time.monotonic() >= give_up_at or stop.reason is StopReason.DRAIN:
                    raise
                logger.warning("the end of a task could not be recorded yet", extra={"action": "record.retry"})
                backoff = Backoff(base=timedelta(milliseconds=200), cap=self._options.store_retry)
                time.sleep(backoff.delay(tries, self._rng).total_seconds())

    def _record(self, claim: Claim, stop: StopToken, execution: Execution) -> Outcome:
        match execution:
            case Returned(result=result) if result.get("interrupted"):
                return self._record_stop(claim, stop.reason, "the handler saved its checkpoint and stopped")
            case Returned(result=result):
                commit = self._store.complete_task(claim, result)
                if commit.messages:
                    self._publisher.publish(commit.messages)
                _tell(logging.INFO, "completed", claim)
                return Finished(result=result, last_in_stage=commit.last_in_stage)
            case Raised(error=error, retry_after=retry_after):
                return self._record_failure(claim, error, retry_after)
            case Stopped(detail=detail):
                return self._record_stop(claim, stop.reason, detail)
            case _:
                assert_never(execution)

    def _record_stop(self, claim: Claim, reason: StopReason | None, detail: str) -> Outcome:
        match reason:
            case StopReason.CANCELLED:
                commit = self._store.cancel_task(claim, reason=detail)
                self._publisher.publish(commit.messages)
                _tell(logging.INFO, "cancelled", claim)
                return Interrupted(reason=reason)
            case StopReason.MEMORY | StopReason.TIMEOUT | StopReason.STALLED:
                return self._record_failure(claim, stop_error(reason, f"{_STOP_TEXTS[reason]}; {detail}"), None)
            case StopReason.LEASE_LOST:
                raise ClaimLost(claim.task_id, claim.attempt)
            case StopReason.DRAIN:
                return self._release(claim, reason)
            case None:
                error = ErrorInfo(
                    type="ContractViolation",
                    message="the handler returned interrupted although nobody asked it to stop",
                    retryable=True,
                )
                return self._record_failure(claim, error, None)
            case _:
                assert_never(reason)

    def _release(self, claim: Claim, reason: StopReason) -> Outcome:
        try:
            commit = self._store.release_task(claim, reason=str(reason))
        except ClaimLost:
            return Superseded(reason="another attempt owns the task")
        except StoreUnavailable as error:
            return Deferred(delay=self._options.store_retry, reason=str(error))
        self._publisher.publish(commit.messages)
        logger.info("task interrupted", extra={"action": "task.interrupted", **claim.ids, "reason": str(reason)})
        return Interrupted(reason=reason)

    def _record_failure(self, claim: Claim, error: ErrorInfo, retry_after: timedelta | None) -> Outcome:
        failures = claim.task.failures + 1
        if error.retryable and failures < claim.task.max_attempts:
            delay = max(retry_after or timedelta(0), self._options.backoff.delay(failures, self._rng))
            self._publisher.publish(self._store.fail_task(claim, error, retry_in=delay).messages)
            logger.warning(
                "task failed, tried again in %.1f s: %s",
                delay.total_seconds(),
                error.message,
                extra={"action": "task.retried", **claim.ids},
            )
            return RetryLater(error=error, delay=delay)
        self._publisher.publish(self._store.fail_task(claim, error, retry_in=None).messages)
        logger.error("task failed: %s", error.message, extra={"action": "task.failed", **claim.ids})
        return Failed(error=error)

    def _take_heartbeat(self) -> Heartbeat:
        try:
            return self._heartbeats.pop()
        except IndexError:
            return Heartbeat(self._store, self._options.heartbeat, self.heartbeat_counts)

    def close(self) -> None:
        """End the heartbeat threads and the executor. Idempotent."""
        while self._heartbeats:
            self._heartbeats.pop().close()
        self.executor.close()


_STOP_TEXTS = {
    StopReason.MEMORY: "stopped above the soft memory mark, before the kernel would have killed it",
    StopReason.TIMEOUT: "stopped at its time limit",
    StopReason.STALLED: "stopped because it made no progress",
}


def _tell(level: int, what: str, claim: Claim) -> None:
    if logger.isEnabledFor(level):
        logger.log(level, "task %s", what, extra={"action": f"task.{what}", **claim.ids})
