"""The guardian: forks the runner, and sees to it that the runner and everything it started end together.

It runs no foreign code and keeps no state worth losing. One byte from the worker is one command; the end of the stream
means that the worker is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import NoReturn

from infrastructure.process_executor.linux import adopt_orphans, children_of, die_with_parent, prefer_for_oom_kill

KILL = b"K"
DUMP = b"D"
_CLEAN_UP_SECONDS = 5.0


def main() -> NoReturn:
    """Entry point of the child process; the descriptors' numbers are in the environment."""
    control_fd = int(os.environ.pop("GEOWORKER_CONTROL_FD"))
    guard_fd = int(os.environ.pop("GEOWORKER_GUARD_FD"))
    adopt_orphans()
    me = os.getpid()
    runner = os.fork()
    if runner == 0:
        os.close(guard_fd)
        _become_runner(me, control_fd)
    os.close(control_fd)
    with contextlib.suppress(OSError):
        os.setpgid(runner, runner)
    _guard(runner, socket.socket(fileno=guard_fd))
    os._exit(0)


def _become_runner(guardian: int, control_fd: int) -> NoReturn:
    status = 70
    try:
        die_with_parent(guardian)
        os.setpgid(0, 0)
        prefer_for_oom_kill()
        from infrastructure.process_executor.runner import main as run

        status = run(control_fd)
    except BaseException:  # noqa: BLE001 - a forked copy must never run on into the guardian's code
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _guard(runner: int, worker: socket.socket) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake, waker = socket.socketpair()
    wake.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _send(worker, {"runner": runner})
    killed = worker_gone = False
    while not _has_ended(runner):
        watched = [wake] if worker_gone else [wake, worker]
        readable, _, _ = select.select(watched, [], [], 5.0)
        if wake in readable:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
        if worker in readable:
            command = _command(worker)
            if DUMP in command:
                os.kill(runner, signal.SIGUSR1)
            if KILL in command or not command:
                worker_gone = not command
                killed = True
                os.kill(runner, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(runner, signal.SIGKILL)
    _, status, usage = os.wait4(runner, 0)
    strays = _end_adopted()
    _send(worker, {"status": status, "peak_kib": usage.ru_maxrss, "killed": killed, "strays": strays})


def _command(worker: socket.socket) -> bytes:
    try:
        return worker.recv(64)
    except OSError:
        return b""


def _has_ended(runner: int) -> bool:
    """Whether the runner is dead, leaving it to be waited for (its group's number stays taken until then)."""
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return False
        if found.si_pid == runner:
            return True
        os.waitpid(found.si_pid, 0)  # an orphan that ended by itself


def _end_adopted() -> int:
    """Kill adopted orphans, generation by generation; how many there were."""
    me = os.getpid()
    seen: set[int] = set()
    give_up_at = time.monotonic() + _CLEAN_UP_SECONDS
    while (orphans := children_of(me)) and time.monotonic() < give_up_at:
        for pid in orphans:
            seen.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)
    return len(seen)


def _send(worker: socket.socket, report: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        worker.sendall(json.dumps(report).encode() + b"\n")
