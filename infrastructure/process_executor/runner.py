"""The runner: the process in which handlers run, one task after the other."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from dataclasses import replace

from core.errors import ClaimLost
from core.ports import Execution, Raised
from core.records import Claim
from core.stopping import StopReason, StopToken
from infrastructure.handler_call import describe
from infrastructure.inline_executor import HandlerParts, run_claimed
from infrastructure.process_executor.activity import ActivityStore
from infrastructure.process_executor.bootstrap import resolve
from infrastructure.process_executor.codec import claim_from_json, execution_to_json
from infrastructure.process_executor.framing import ChannelBroken, Frame, FrameChannel
from infrastructure.process_executor.hygiene import Surroundings
from infrastructure.process_executor.linux import forget_peak, resident_bytes
from infrastructure.process_executor.log_forwarding import ForwardHandler
from infrastructure.telemetry.tracing import Tracer, TracingSpec, start_tracing

EXIT_RETIRED = 0
EXIT_BOOTSTRAP = 70
EXIT_CHANNEL = 71


def main(control_fd: int) -> int:
    """Start up, run tasks until told to retire; returns the exit code."""
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _stay_deaf_to_group_signals()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    channel = FrameChannel(socket.socket(fileno=control_fd))
    try:
        hello = channel.receive()
        _forward_logs(channel, hello["log_level"])
        began = time.perf_counter()
        for name in hello["preload"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        try:
            bootstrap = resolve(hello["bootstrap"])(hello["arguments"])
            parts = bootstrap.__enter__()
        except Exception as error:  # noqa: BLE001 - the worker is told why no child can start
            channel.send({"type": "failed", "error": describe(error).as_dict()})
            return EXIT_BOOTSTRAP
        tracer = start_tracing(TracingSpec(**hello["tracing"]))
        channel.send({"type": "ready", "seconds": time.perf_counter() - began, "rss": resident_bytes()})
        Runner(channel, parts, tracer).serve()
        bootstrap.__exit__(None, None, None)
        tracer.close()
    except ChannelBroken as error:
        with contextlib.suppress(OSError, ValueError):
            print(f"the child lost its control channel: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_CHANNEL
    return EXIT_RETIRED


class Runner:
    """Takes tasks off the control channel and runs them in the main thread, where libraries expect to be."""

    def __init__(self, channel: FrameChannel, parts: HandlerParts, tracer: Tracer) -> None:
        self._channel = channel
        self._tracer = tracer
        self._parts = replace(parts, checkpoints=ActivityStore(parts.checkpoints, self._active))
        self._runs: queue.SimpleQueue[tuple[Frame, StopToken] | None] = queue.SimpleQueue()
        self._current: tuple[int, StopToken] = (0, StopToken())

    def serve(self) -> None:
        """Run tasks until the worker says exit.

        Raises:
            ChannelBroken: when a result cannot be sent.
        """
        threading.Thread(target=self._listen, name="geoworker-control", daemon=True).start()
        surroundings = Surroundings.now()
        while (run := self._runs.get()) is not None:
            frame, stop = run
            forget_peak()
            self._channel.send({"type": "began", "run": frame["run"]})
            report = self._run(frame, stop)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            self._channel.send({**report, "rss": resident_bytes(), "left": surroundings.restore()})

    def _run(self, frame: Frame, stop: StopToken) -> Frame:
        try:
            report = execution_to_json(self._execute(claim_from_json(frame["claim"]), stop, frame["traceparent"]))
        except ClaimLost:
            report = {"type": "claim_lost"}
        except BaseException as error:  # noqa: BLE001 - an interrupt may hit the lines around the handler's call
            report = execution_to_json(Raised(error=describe(error)))
        return {**report, "run": frame["run"], "stop_reason": stop.reason}

    def _execute(self, claim: Claim, stop: StopToken, traceparent: str | None) -> Execution:
        with self._tracer.span(
            f"handler {claim.task.task_type}",
            parent=traceparent,
            attributes={"geoworker.task_id": claim.task_id, "geoworker.attempt": claim.attempt},
        ) as span:
            execution = run_claimed(claim, self._parts, stop)
            if isinstance(execution, Raised):
                span.fail(f"{execution.error.type}: {execution.error.message}")
            return execution

    def _active(self) -> None:
        self._channel.send({"type": "activity"})

    def _listen(self) -> None:
        """The control thread. When the worker is gone, nothing this process does can count any more: it ends."""
        try:
            while True:
                frame = self._channel.receive()
                match frame["type"]:
                    case "run":
                        self._current = (frame["run"], StopToken())
                        self._runs.put((frame, self._current[1]))
                    case "stop":
                        number, stop = self._current
                        if number == frame["run"]:
                            stop.request(StopReason(frame["reason"]))
                    case "exit":
                        self._runs.put(None)
        except ChannelBroken:
            os._exit(EXIT_CHANNEL)


def _forward_logs(channel: FrameChannel, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [ForwardHandler(channel)]
    root.setLevel(level)
    logging.captureWarnings(True)


def _stay_deaf_to_group_signals() -> None:
    """Platforms that signal every process of a container mean the worker; it tells its children by the channel.

    Programs that a task starts get the default back by exec, forks (pools) by the hooks: signals wait while a fork is
    being made, since the interpreter forgets those that come in that moment.
    """
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

    def ignore(_number: int, _frame: object) -> None:
        return

    def before_fork() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def after_fork_in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def after_fork_in_child() -> None:
        for number in numbers:
            if signal.getsignal(number) is ignore:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    for number in numbers:
        signal.signal(number, ignore)
    os.register_at_fork(before=before_fork, after_in_parent=after_fork_in_parent, after_in_child=after_fork_in_child)
