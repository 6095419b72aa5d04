"""The worker's handle on one child: its guardian, its runner, the channels to both and what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from core.errors import ErrorInfo, GeoworkerError
from infrastructure.process_executor.bootstrap import ChildSpec
from infrastructure.process_executor.framing import ChannelBroken, Frame, FrameChannel
from infrastructure.process_executor.guardian import DUMP, KILL
from infrastructure.process_executor.linux import children_of, resident_bytes, tree_resident_bytes
from infrastructure.process_executor.log_forwarding import emit_in_worker
from infrastructure.process_executor.output import OutputTail

_START = "import json, os, sys; sys.path[:] = json.loads(os.environ.pop('GEOWORKER_PATH'));"
_CODE = f"{_START} from infrastructure.process_executor.guardian import main; main()"


class ChildNotStarted(GeoworkerError):
    """A child process could not get ready; ``error`` says why."""

    def __init__(self, error: ErrorInfo) -> None:
        self.error = error
        super().__init__(f"no child process: {error.message}")


@dataclass(frozen=True, slots=True)
class Exit:
    """How a runner ended. ``status`` as wait(2) has it, None when even the guardian was lost."""

    status: int | None
    peak_bytes: int | None
    killed: bool
    strays: int


class ChildProcess:
    """One guardian with its runner. Used by one thread at a time, but for :meth:`send_stop` and :meth:`wake`."""

    def __init__(self, spec: ChildSpec) -> None:
        control, control_end = socket.socketpair()
        self._guard, guard_end = socket.socketpair()
        self._wake, self._waker = socket.socketpair()
        for end in (self._guard, self._wake, self._waker):
            end.setblocking(False)
        out, out_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-c", _CODE],
                stdin=subprocess.DEVNULL,
                stdout=out_end,
                stderr=out_end,
                pass_fds=(control_end.fileno(), guard_end.fileno()),
                start_new_session=True,
                env={
                    **os.environ,
                    "GEOWORKER_PATH": json.dumps([os.path.abspath(path) for path in sys.path]),
                    "GEOWORKER_CONTROL_FD": str(control_end.fileno()),
                    "GEOWORKER_GUARD_FD": str(guard_end.fileno()),
                },
            )
        except BaseException:
            os.close(out)
            for end in (control, self._guard, self._wake, self._waker):
                end.close()
            raise
        finally:
            control_end.close()
            guard_end.close()
            os.close(out_end)
        self.control = FrameChannel(control)
        self.output = OutputTail(out)
        self.started_at = time.monotonic()
        self.ready = False
        self.tasks = 0
        self.rss: int | None = None
        self.runner_pid: int | None = None
        self.exit: Exit | None = None
        self._failure: ErrorInfo | None = None
        self._control_open = True
        self._reports = bytearray()
        self._poll = select.poll()
        for descriptor in (self.control.fileno(), self._guard.fileno(), self._wake.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._hello = {
            "type": "hello",
            "bootstrap": spec.bootstrap,
            "arguments": dict(spec.arguments),
            "preload": list(spec.preload),
            "log_level": spec.log_level,
            "tracing": spec.tracing.as_dict(),
        }
        with contextlib.suppress(ChannelBroken):
            self.control.send(self._hello)

    @property
    def guardian_pid(self) -> int:
        """The guardian's process id."""
        return self._process.pid

    def wait_ready(self, seconds: float) -> None:
        """Wait until the runner has started up.

        Raises:
            ChildNotStarted: when it failed, died, or took longer than ``seconds`` since it was made.
        """
        give_up_at = self.started_at + seconds
        while not self._has_started():
            if self.exit is not None or time.monotonic() >= give_up_at:
                why = "ended while it started" if self.exit is not None else f"was not ready within {seconds:g} s"
                lines = self.output.last_lines(20)
                raise ChildNotStarted(
                    ErrorInfo(
                        type="ChildNotStarted",
                        message=f"the child process {why}; it printed: {lines[-1] if lines else 'nothing'}",
                        retryable=True,
                        details={"last_log_lines": lines},
                    )
                )
            self.wait(min(1.0, give_up_at - time.monotonic()))

    def look_ready(self) -> bool:
        """Whether the runner has started up, without waiting for it."""
        self.wait(0)
        try:
            return self._has_started()
        except ChildNotStarted:
            return False

    def _has_started(self) -> bool:
        if self._failure is not None:
            raise ChildNotStarted(self._failure)
        try:
            while not self.ready and (frame := self.control.buffered()) is not None:
                if frame["type"] == "ready":
                    self.ready = True
                    self.rss = frame["rss"]
                elif frame["type"] == "log":
                    emit_in_worker(frame, {})
                elif frame["type"] == "failed":
                    self._failure = ErrorInfo.from_dict(frame["error"])
                    raise ChildNotStarted(self._failure)
        except ChannelBroken as error:
            self._failure = ErrorInfo(type="ChildNotStarted", message=str(error), retryable=True)
            raise ChildNotStarted(self._failure) from error
        return self.ready

    def wait(self, seconds: float) -> None:
        """Wait until the runner or the guardian says something, somebody wakes us, or the time is over."""
        for descriptor, _ in self._poll.poll(max(0.0, seconds) * 1000):
            if descriptor == self.control.fileno():
                try:
                    self.control.fill()
                except ChannelBroken:
                    self._control_open = False
                    self._poll.unregister(descriptor)  # the guardian reports the end
            elif descriptor == self._guard.fileno():
                self._read_reports()
            else:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)

    def frames(self) -> Iterator[Frame]:
        """The frames that have arrived.

        Raises:
            ChannelBroken: when what came is no frame.
        """
        while (frame := self.control.buffered()) is not None:
            yield frame

    def drain(self) -> None:
        """Read all that a dead runner has left in the channel."""
        while self._control_open and self._has_more():
            try:
                self.control.fill()
            except ChannelBroken:
                self._control_open = False

    def wake(self) -> None:
        """Make :meth:`wait` return. From any thread."""
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def send_stop(self, run: int, reason: str) -> None:
        """Ask the running task to stop, and wake whoever waits. From any thread."""
        with contextlib.suppress(ChannelBroken):
            self.control.send({"type": "stop", "run": run, "reason": reason})
        self.wake()

    def kill(self) -> None:
        """Have the guardian SIGKILL the runner and all it started."""
        self._command(KILL)

    def dump_stacks(self) -> None:
        """Have the runner print the stack of every thread, whatever it is doing."""
        self._command(DUMP)

    def retire(self) -> None:
        """Let the runner close what it holds and exit."""
        with contextlib.suppress(ChannelBroken):
            self.control.send({"type": "exit"})

    def end(self, seconds: float) -> Exit:
        """Wait for the end, kill after ``seconds``, and let go of all descriptors."""
        give_up_at = time.monotonic() + seconds
        while self.exit is None and time.monotonic() < give_up_at:
            self.wait(give_up_at - time.monotonic())
            for _ in self._harmless_frames():
                pass
        if self.exit is None:
            self.kill()
            give_up_at = time.monotonic() + 10.0
            while self.exit is None and time.monotonic() < give_up_at:
                self.wait(give_up_at - time.monotonic())
        self.output.wait_end(1.0)
        for end in (self._guard, self._wake, self._waker):
            end.close()  # a guardian that is still there takes the end of its stream as the order to kill
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return self.exit or Exit(None, None, killed=True, strays=0)

    def strays(self) -> int:
        """How many processes the runner has orphaned that still run."""
        return max(0, len(children_of(self.guardian_pid)) - 1)

    def tree_bytes(self) -> int:
        """The resident size of the runner and everything it started."""
        return 0 if self.runner_pid is None else tree_resident_bytes(self.runner_pid)

    def resident(self) -> int | None:
        """The resident size of the runner."""
        return None if self.runner_pid is None else resident_bytes(self.runner_pid)

    def _has_more(self) -> bool:
        more = select.poll()  # select() ends at descriptor 1023
        more.register(self.control.fileno(), select.POLLIN)
        return bool(more.poll(0))

    def _harmless_frames(self) -> Iterator[Frame]:
        with contextlib.suppress(ChannelBroken):
            yield from self.frames()

    def _command(self, command: bytes) -> None:
        with contextlib.suppress(OSError):
            self._guard.send(command)

    def _read_reports(self) -> None:
        try:
            chunk = self._guard.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._reports += chunk
        while b"\n" in self._reports:
            line, _, rest = self._reports.partition(b"\n")
            self._reports = bytearray(rest)
            self._take_report(json.loads(line))
        if not chunk and self.exit is None:
            self.exit = Exit(None, None, killed=False, strays=0)
        if self.exit is not None:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._guard.fileno())

    def _take_report(self, report: Frame) -> None:
        if "runner" in report:
            self.runner_pid = report["runner"]
        else:
            peak = report["peak_kib"] * (1024 if sys.platform == "linux" else 1)
            self.exit = Exit(report["status"], peak, killed=report["killed"], strays=report["strays"])
