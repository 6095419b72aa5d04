"""What Linux offers to keep a process tree together. Elsewhere these do nothing; pipes and groups have to suffice."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 1 << 16


def _prctl(option: int, argument: int) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) == 0)


def adopt_orphans() -> bool:
    """Descendants that lose their parent become children of this process instead of init's."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when the thread that made it ends; at once when ``parent`` is gone already."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)


def prefer_for_oom_kill() -> None:
    """Make the kernel's OOM killer choose this process before the worker."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    except OSError:
        return


def children_of(pid: int) -> list[int]:
    """The live and dead, not yet waited for, children of a process."""
    try:
        return [int(part) for part in _read(f"/proc/{pid}/task/{pid}/children").split()]
    except OSError:
        return []


def tree_resident_bytes(pid: int) -> int:
    """The resident sizes of a process and its descendants together (shared pages count for each)."""
    return (resident_bytes(pid) or 0) + sum(tree_resident_bytes(child) for child in children_of(pid))


def forget_peak() -> None:
    """Begin the count of this process's peak memory anew: a child outlives its tasks, and each has its own peak."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(descriptor, b"5")
    except OSError:
        return
    finally:
        os.close(descriptor)


def resident_bytes(pid: int | str = "self") -> int | None:
    """The resident size of a process, or None where it cannot be known."""
    try:
        pages = _read(f"/proc/{pid}/statm").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _read(path: str) -> bytes:
    """A whole small file. These are read around every task, and pathlib's text layers cost more than the kernel."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        whole = b""
        while chunk := os.read(descriptor, _CHUNK):
            whole += chunk
        return whole
    finally:
        os.close(descriptor)
