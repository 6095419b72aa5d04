"""ProcessExecutor: the TaskExecutor port on warm child processes, one for each task that runs at the same time."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from core.errors import ConfigurationError, ErrorInfo, Fault
from core.ports import Execution, Raised, Stopped
from core.records import Claim
from core.stopping import StopReason, StopToken
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.child import ChildNotStarted, ChildProcess
from infrastructure.process_executor.supervision import ChildGone, Supervision, SupervisionRules, describe_claim
from infrastructure.watchdogs import DiskWatch, MemoryWatch

logger = logging.getLogger("geoworker.executor")

_START_PAUSES = (0.0, 0.0, 1.0)  # seconds before each try to find a child that takes the task
_DISK_RETRY = timedelta(seconds=60)
_LEAST_WORTH_STOPPING = 0.1  # of the memory limit: ending a smaller child would not help
_RETIRE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """When children are replaced and how they are supervised.

    Args:
        rules: grace and stall times.
        recycle_tasks: tasks after which a child is replaced by a fresh one, as soon as that one is ready.
        recycle_bytes: resident size of a child after a task above which it is replaced.
        spare_children: started children kept waiting beside those at work, so that a crash costs no start-up time.
        start_seconds: how long a child may take to get ready.
    """

    rules: SupervisionRules = field(default_factory=SupervisionRules)
    recycle_tasks: int = 1000
    recycle_bytes: int = 2 << 30
    spare_children: int = 1
    start_seconds: float = 120.0


class ProcessExecutor:
    """Runs each handler in a child process. Thread-safe: call :meth:`execute` from as many threads as tasks may run."""

    def __init__(
        self,
        spec: ChildSpec,
        options: ExecutorOptions | None = None,
        *,
        memory: MemoryWatch | None = None,
        disk: DiskWatch | None = None,
    ) -> None:
        self._spec = spec
        self._options = options or ExecutorOptions()
        self._memory = memory or MemoryWatch()
        self._disk = disk
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)  # notified when a task is over and when a child has ended
        self._executing = 0
        self._idle: list[ChildProcess] = []
        self._busy: dict[ChildProcess, Claim] = {}
        self._retiring: set[ChildProcess] = set()
        self._counts: Counter[str] = Counter()
        self._stops: Counter[StopReason] = Counter()
        self._closed = False

    def start(self) -> None:
        """Start a child now and wait until it is ready, so that what cannot work is known before the first task.

        Raises:
            ConfigurationError: when it does not get ready.
        """
        try:
            child = self._ready(self._spawn())
        except ChildNotStarted as error:
            raise ConfigurationError("child process", [Fault("bootstrap", error.error.message)]) from error
        with self._lock:
            self._idle.append(child)

    def execute(self, claim: Claim, *, stop: StopToken, deadline: datetime | None) -> Execution:
        """Run the claimed task's handler in a child.

        Raises:
            ClaimLost: when another attempt owns the task.
        """
        if self._disk is not None and (problem := self._disk.problem()) is not None:
            logger.error("%s", problem, extra={"action": "disk.full", "task_id": claim.task_id})
            error = ErrorInfo(type="InsufficientDiskSpace", message=problem, retryable=True, code="DISK_FULL")
            return Raised(error=error, retry_after=_DISK_RETRY)
        with self._lock:
            self._executing += 1
        try:
            return self._execute_in_a_child(claim, stop, deadline)
        finally:
            with self._lock:
                self._executing -= 1
                self._settled.notify_all()

    def _execute_in_a_child(self, claim: Claim, stop: StopToken, deadline: datetime | None) -> Execution:
        refused: ErrorInfo | None = None
        for pause in _START_PAUSES:
            if self._closed or stop.wait(pause):
                return Stopped(detail="asked to stop before the handler was started")
            try:
                child = self._take(claim)
            except ChildNotStarted as error:
                refused = error.error
                logger.exception("no child process", extra={"action": "child.not_started"})
                continue
            try:
                return self._supervise(child, claim, stop, deadline)
            except ChildGone:
                logger.warning("a child died before it began a task", extra={"action": "child.died_idle"})
        return Raised(
            error=refused
            or ErrorInfo(type="ChildNotStarted", message="child processes die before they take a task", retryable=True)
        )

    def _supervise(self, child: ChildProcess, claim: Claim, stop: StopToken, deadline: datetime | None) -> Execution:
        supervision = Supervision(
            child,
            claim,
            stop,
            deadline,
            rules=self._options.rules,
            memory=self._memory,
            over_memory=self._should_shrink,
            closing=lambda: self._closed,
            on_stall=self._count_stall,
        )
        try:
            return supervision.execute()
        finally:
            if stop.reason is not None:
                self._stops[stop.reason] += 1
            self._give_back(child, supervision)

    def _count_stall(self) -> None:
        self._counts["stalled"] += 1

    # Children

    def _spawn(self) -> ChildProcess:
        try:
            child = ChildProcess(self._spec)
        except OSError as error:
            raise ChildNotStarted(
                ErrorInfo(type="ChildNotStarted", message=f"cannot start a process: {error}", retryable=True)
            ) from error
        self._counts["started"] += 1
        return child

    def _ready(self, child: ChildProcess) -> ChildProcess:
        try:
            child.wait_ready(self._options.start_seconds)
        except ChildNotStarted:
            self._end_in_background(child)
            raise
        return child

    def _take(self, claim: Claim) -> ChildProcess:
        child = self._ready(self._pop_idle() or self._spawn())
        with self._lock:
            self._busy[child] = claim
        self._keep_spares()
        return child

    def _pop_idle(self) -> ChildProcess | None:
        """An idle child that is not known to have died."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                child = self._idle.pop()
            child.wait(0)
            if child.exit is None:
                return child
            self._counts["died"] += 1
            logger.warning("an idle child had died", extra={"action": "child.died_idle", "pid": child.runner_pid})
            self._end_in_background(child)

    def _keep_spares(self) -> None:
        while True:
            with self._lock:
                if self._closed or len(self._idle) >= self._options.spare_children:
                    return
            try:
                spare = self._spawn()
            except ChildNotStarted:
                return  # the task that needs it will say so
            with self._lock:
                if not self._closed:
                    self._idle.insert(0, spare)
                    continue
            self._end_in_background(spare)

    def _give_back(self, child: ChildProcess, supervision: Supervision) -> None:
        why = self._why_replace(child, supervision)
        with self._lock:
            del self._busy[child]
            if why is None and not self._closed:
                self._idle.append(child)
                return
        if child.exit is None:
            logger.info(
                "a child process is replaced: %s", why, extra={"action": "child.retired", "pid": child.runner_pid}
            )
            self._counts["retired"] += 1
            child.retire()
        else:
            self._counts["died"] += 1
        self._end_in_background(child)

    def _why_replace(self, child: ChildProcess, supervision: Supervision) -> str | None:
        options = self._options
        strays = child.strays() if child.exit is None else 0
        reasons = [
            (child.exit is not None, "it has ended"),
            (supervision.spoilt, "it broke the protocol or could not be killed"),
            (bool(supervision.left), "; ".join(supervision.left)),
            (strays > 0, f"orphaned processes still run: {strays}"),
            (child.tasks >= options.recycle_tasks and self._has_ready_spare(), f"it has run {child.tasks} tasks"),
            ((child.rss or 0) > options.recycle_bytes, f"its resident size is {(child.rss or 0) / 2**20:.0f} MiB"),
        ]
        return next((text for holds, text in reasons if holds), None)

    def _has_ready_spare(self) -> bool:
        with self._lock:
            if self._options.spare_children == 0:
                return True
            return any(spare.look_ready() for spare in self._idle)

    def _end_in_background(self, child: ChildProcess) -> None:
        def end() -> None:
            child.end(_RETIRE_SECONDS)
            with self._lock:
                self._retiring.discard(child)
                self._settled.notify_all()

        with self._lock:
            self._retiring.add(child)
        threading.Thread(target=end, name="geoworker-child-end", daemon=True).start()

    def _should_shrink(self, child: ChildProcess) -> bool:
        """Whether memory is short and this child is the largest of those at work."""
        reading = self._memory.above_soft_mark()
        if reading is None:
            return False
        size = child.tree_bytes()
        if size < _LEAST_WORTH_STOPPING * reading.limit:
            return False
        with self._lock:
            others = [other for other in self._busy if other is not child]
        return all(size >= other.tree_bytes() for other in others)

    # Life

    def status(self) -> dict[str, Any]:
        """What metrics say: children started, died and retired, stalls, stops by reason, and the children there are."""
        with self._lock:
            busy, idle, counts = dict(self._busy), list(self._idle), dict(self._counts)
        return {
            "started": counts.get("started", 0),
            "died": counts.get("died", 0),
            "retired": counts.get("retired", 0),
            "stalled": counts.get("stalled", 0),
            "stops": {str(reason): self._stops[reason] for reason in StopReason},
            "children": [
                {
                    "pid": child.runner_pid,
                    "tasks": child.tasks,
                    "resident_bytes": child.resident(),
                    "task": describe_claim(claim) if claim is not None else None,
                }
                for child, claim in [*busy.items(), *((child, None) for child in idle)]
            ],
        }

    def close(self) -> None:
        """End all children. Tasks that still run are ended at once and come back as Stopped. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for child in busy:
            child.wake()
        for child in idle:
            child.retire()
            self._end_in_background(child)
        with self._lock:
            self._settled.wait_for(lambda: not self._executing and not self._retiring, 2 * _RETIRE_SECONDS)
