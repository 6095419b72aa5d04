"""Runs the image's command as its user and as process 1 of a namespace, and speaks with it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from build import Image

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class Container:
    """A running process of the image. Its own process ids begin at 1, as in a container."""

    def __init__(self, image: Image, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.key = environment["API_KEYS"]
        self._log = log
        self._image = image
        self._environment = {**image.environment, **environment, "PORT": str(self.port)}
        inside = image.root.command(
            [*image.entrypoint, *arguments], self._environment, user=image.user, folder=image.folder
        )
        proc = f"--mount-proc={image.root.path}/proc"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", proc, *inside], stdout=output, stderr=output
            )

    @property
    def first(self) -> int:
        """The id, outside, of the process that is 1 inside."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """The status and the JSON of an answer; status 0 while nobody listens."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers={"X-Api-Key": self.key, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def wait_for(self, path: str, status: int, seconds: float = _START_SECONDS) -> Any:
        """Ask until that status is answered.

        Raises:
            SystemExit: when the process ends first, or the time runs out.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found, answer = self.call(path)
            if found == status:
                return answer
            if self._process.poll() is not None:
                break
            select.select([], [], [], 0.1)
        return self.fail(f"{path} did not answer {status}")

    def probe(self) -> None:
        """Run the HEALTHCHECK as the container engine would."""
        self._image.root.run(
            self._image.healthcheck, self._environment, user=self._image.user, folder=self._image.folder
        )

    def terminate(self) -> float:
        """Send SIGTERM to process 1; returns the seconds until it ended with 0.

        Raises:
            SystemExit: when it ends otherwise, or does not end.
        """
        began = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.fail("SIGTERM did not end it")
        if code != 0:
            self.fail(f"ended with {code} after SIGTERM")
        return time.monotonic() - began

    def fail(self, reason: str) -> Any:
        """Leave with the reason and the process's log."""
        sys.exit(f"{reason}\n{self._log.read_text(errors='replace')[-4000:]}")

    def close(self) -> None:
        """End it whatever its state."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def forward(path: str) -> Iterator[int]:
    """A loopback port that leads to a Unix socket: the embedded PostgreSQL listens on one that only root may reach."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(path)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
