"""What a handler leaves behind in its process. A child that is no longer as it was is replaced by a fresh one."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from dataclasses import dataclass

from infrastructure.process_executor.linux import children_of

_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGHUP,
)
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)
_OUR_THREADS = "geoworker"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The state of the process that handlers share, one after the other."""

    directory: str
    signals: tuple[object, ...]
    limits: tuple[tuple[int, int], ...]
    environment: dict[bytes, bytes]
    threads: frozenset[int | None]
    umask: int

    @classmethod
    def now(cls) -> Surroundings:
        """As it is."""
        umask = os.umask(0o077)
        os.umask(umask)
        return cls(
            directory=_directory(),
            signals=tuple(signal.getsignal(number) for number in _SIGNALS),
            limits=tuple(resource.getrlimit(limit) for limit in _LIMITS),
            environment=dict(os.environb),
            threads=frozenset(thread.ident for thread in threading.enumerate()),
            umask=umask,
        )

    def restore(self) -> list[str]:
        """Put back what can be put back (directory, umask, signal handlers); name what cannot."""
        found = Surroundings.now()
        left: list[str] = []
        if found.directory != self.directory:
            try:
                os.chdir(self.directory)
            except OSError:
                left.append("the working directory is gone")
        if found.environment != self.environment:
            changed = {name for name, _ in found.environment.items() ^ self.environment.items()}
            left.append(f"environment variables were changed: {', '.join(sorted(map(os.fsdecode, changed)))}")
        if found.umask != self.umask:
            os.umask(self.umask)
        if found.signals != self.signals and not self._restore_signals():
            left.append("signal handlers were changed")
        if found.limits != self.limits:
            left.append("resource limits were changed")
        strangers = [
            thread.name
            for thread in threading.enumerate()
            if thread.ident not in self.threads and thread.is_alive() and not thread.name.startswith(_OUR_THREADS)
        ]
        if strangers:
            left.append(f"threads still run: {', '.join(sorted(strangers)[:5])}")
        processes = _live_children()
        if processes:
            left.append(f"processes still run: {len(processes)}")
        return left

    def _restore_signals(self) -> bool:
        for number, handler in zip(_SIGNALS, self.signals, strict=True):
            if handler is None:  # not set by Python, and so out of its reach
                return False
            signal.signal(number, handler)  # type: ignore[arg-type]
        return True


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _live_children() -> list[int]:
    """Children that still run; those that ended and were not waited for are waited for here."""
    live = []
    for pid in children_of(os.getpid()):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                live.append(pid)
    return live
