"""Two processes over real sockets and one PostgreSQL: what a deployment does, on one machine."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import httpx

from app.session import database_address
from app.settings import OrchestrationMode, Settings
from core.errors import ConfigurationError, Fault

_MAIN = "from app.cli import main; main()"
_READY_SECONDS = 60.0
_STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The running pair: where each listens, the key that both ask for, and where their logs are."""

    mode: OrchestrationMode
    orchestrator_url: str
    worker_url: str
    api_key: str
    logs: Path


@contextmanager
def rehearse(settings: Settings, mode: OrchestrationMode) -> Iterator[Rehearsal]:
    """An orchestrator and a worker as processes of their own, for the length of the block.

    Without ``DATABASE_URL`` an embedded PostgreSQL is started, and in service_bus mode the emulator.

    Raises:
        ConfigurationError: when a process does not come up; its log says why.
    """
    logs = settings.data_dir.expanduser().resolve() / "rehearsal"
    logs.mkdir(parents=True, exist_ok=True)
    api_key = secrets.token_urlsafe(24)
    ports = {"worker": _free_port(), "orchestrator": _free_port()}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with ExitStack() as stack:
        environment = {
            **os.environ,
            "DATABASE_URL": stack.enter_context(database_address(settings)),
            "DATA_DIR": str(settings.data_dir.expanduser().resolve()),
            "DOCKER_ORCHESTRATION_MODE": str(mode),
            "LOG_FORMAT": "json",
            "API_KEYS": api_key,
            **_transport(mode, urls, api_key, stack),
        }
        for name in ("orchestrator", "worker"):  # stopped in reverse: the worker flushes its callbacks first
            process = stack.enter_context(_process(name, ports[name], environment, logs / f"{name}.log"))
            _wait_ready(name, process, urls[name], logs / f"{name}.log")
        yield Rehearsal(
            mode=mode, orchestrator_url=urls["orchestrator"], worker_url=urls["worker"], api_key=api_key, logs=logs
        )


def _transport(mode: OrchestrationMode, urls: Mapping[str, str], api_key: str, stack: ExitStack) -> Mapping[str, str]:
    match mode:
        case OrchestrationMode.HTTP_TRIGGER:
            return {
                "DOCKER_WORKER_URL": urls["worker"],
                "DOCKER_WORKER_API_KEY": api_key,
                "CALLBACK_URL": f"{urls['orchestrator']}/api/task/callback",
                "CALLBACK_SECRETS": "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
                "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
                "ALLOW_PRIVATE_ADDRESSES": "true",
                "SERVICE_BUS_CONNECTION_STRING": "",
                "SERVICE_BUS_FQDN": "",
            }
        case OrchestrationMode.SERVICE_BUS:
            from testing.emulator import ServiceBusEmulator

            return {"SERVICE_BUS_CONNECTION_STRING": stack.enter_context(ServiceBusEmulator()).connection_string}
        case OrchestrationMode.IN_MEMORY:
            raise ConfigurationError(
                "rehearsal", [Fault("--mode", "in_memory is one process: geoworker dev", str(mode))]
            )
        case _:
            assert_never(mode)


@contextmanager
def _process(name: str, port: int, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-c", _MAIN, name, "--port", str(port)],
            env=dict(environment),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops them in order
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise ConfigurationError("rehearsal", [Fault(name, f"does not come up; see {log}")])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
