"""Why a runner ended, as it is recorded: signal or exit code, peak memory, last log lines."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from core.errors import ClaimLost, ErrorInfo
from core.ports import Execution, Raised, Stopped
from core.records import Claim
from core.stopping import StopReason, stop_error
from infrastructure.process_executor.child import Exit
from infrastructure.process_executor.runner import EXIT_CHANNEL

_TEXTS = {
    signal.SIGSEGV: "it read or wrote memory that is not its own",
    signal.SIGBUS: "bus error: a mapped file shrank, or its disk is full",
    signal.SIGABRT: "native code gave up (abort)",
    signal.SIGFPE: "arithmetic error in native code",
    signal.SIGILL: "the processor does not know an instruction of a native library",
    signal.SIGKILL: "somebody other than this worker killed it",
    signal.SIGXCPU: "over its CPU time limit",
    signal.SIGXFSZ: "over its file size limit",
}


def crash(end: Exit, *, oom_kills: int, memory_limit: int | None, lines: Sequence[str]) -> Raised:
    """A runner that ended without a result and without our doing."""
    details: dict[str, Any] = {
        **_facts(end, lines),
        "oom_kill": False,
        "memory_limit_bytes": memory_limit,
    }
    status = end.status
    if status is None:
        message, code = "the handler's process and its guardian were lost", "PROCESS_LOST"
    elif os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = _signal_name(number)
        details["signal"] = name
        if number == signal.SIGKILL and oom_kills:
            details["oom_kill"] = True
            message, code = f"the kernel ended the handler's process for want of memory ({_peak(end)})", "OUT_OF_MEMORY"
        else:
            text = _TEXTS.get(signal.Signals(number), "") if name.startswith("SIG") else ""
            message = f"the handler's process was ended by {name}" + (f": {text}" if text else "")
            code = f"KILLED_BY_{name}"
    else:
        exit_code = os.waitstatus_to_exitcode(status)
        details["exit_code"] = exit_code
        message = f"the handler's process ended with exit code {exit_code} before the handler returned"
        if exit_code == EXIT_CHANNEL:
            message += ": it lost its channel to the worker (were its file descriptors closed?)"
        code = "PROCESS_EXITED"
    return Raised(
        error=ErrorInfo(type="HandlerProcessDied", message=message, retryable=True, code=code, details=details)
    )


def ended_by_us(claim: Claim, reason: StopReason, end: Exit, *, grace: float, lines: Sequence[str]) -> Execution:
    """A runner that was killed because its handler did not listen to a stop.

    Raises:
        ClaimLost: when the stop was for a lost lease.
    """
    detail = f"the handler did not return within {grace:g} s of being asked to stop ({reason}) and was ended"
    match reason:
        case StopReason.DRAIN | StopReason.CANCELLED:
            return Stopped(detail=detail)
        case StopReason.LEASE_LOST:
            raise ClaimLost(claim.task_id, claim.attempt)
        case StopReason.TIMEOUT | StopReason.MEMORY | StopReason.STALLED:
            return Raised(error=stop_error(reason, f"{_WHY[reason]}; {detail} ({_peak(end)})", _facts(end, lines)))
        case _:
            assert_never(reason)


_WHY = {
    StopReason.TIMEOUT: "past its time limit",
    StopReason.MEMORY: "above the soft memory mark",
    StopReason.STALLED: "it made no progress",
}


def _facts(end: Exit, lines: Sequence[str]) -> Mapping[str, Any]:
    return {
        "signal": None,
        "exit_code": None,
        "peak_memory_bytes": end.peak_bytes,
        "orphans_ended": end.strays,
        "last_log_lines": list(lines),
    }


def _peak(end: Exit) -> str:
    return "peak memory unknown" if end.peak_bytes is None else f"peak memory {end.peak_bytes / 2**20:.0f} MiB"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
