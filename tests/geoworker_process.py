"""The real command, ``geoworker``, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
MAIN = "from app.cli import main; main()"
COMMON = {"LOG_FORMAT": "json", "SWEEP_SECONDS": "1", "SHUTDOWN_GRACE_SECONDS": "5", "RETRY_BASE_SECONDS": "0.1"}


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One geoworker process and the address it listens on."""

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str],
        log: Path,
        port: int = 0,
        python: Sequence[str] = ("-c", MAIN),
    ) -> None:
        self.log = log
        self._out = log.open("wb")
        clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        self.process = subprocess.Popen(
            [sys.executable, *python, *arguments, "--port", str(port)],
            cwd=ROOT,
            env={**clean, **COMMON, **environment},
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )
        self.url = self._wait_for_address()

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if "listens on http://" in line:
                    return "http://" + line.split("http://")[1].split()[0]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        finally:
            self.kill()
        return code

    def kill(self) -> None:
        """SIGKILL, whatever it does. Harmless when it has ended."""
        self.process.kill()
        self.process.wait()
        self._out.close()


def wait_ready(url: str) -> None:
    """Wait until a process says that it is ready for work."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(httpx.get(f"{url}/health").text)
