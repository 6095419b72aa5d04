"""The process under test, and deployments of it in each mode."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chaos_service
import httpx
from chaos_harness import wait_until

from core.records import TaskQuery, TaskRecord
from infrastructure.postgres.database import Database
from infrastructure.postgres.state_store import PostgresStateStore, StoreOptions
from testing.emulator import EmulatorConfig, ServiceBusEmulator


class Service:
    """One process."""

    def __init__(self, url: str, root: Path, database: Database, role: str = "embedded", **settings: str) -> None:
        given = [f"{name}={value}" for name, value in settings.items()]
        self.process = subprocess.Popen(
            [sys.executable, chaos_service.__file__, url, str(root), role, *given], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.http = httpx.Client(base_url=self.url, timeout=5)
        self.store = PostgresStateStore(database, StoreOptions(worker_id="test"))
        wait_until(self._serves, 30)

    def _serves(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.ConnectError:
            return False

    def submit(self, job_type: str, parameters: dict[str, Any]) -> str:
        response = self.http.post(f"/api/jobs/submit/{job_type}", json=parameters)
        assert response.status_code < 300, response.text
        return str(response.json()["job_id"])

    def task(self, job_id: str) -> TaskRecord:
        """The job's one task, as soon as it is planned."""
        return next(iter(wait_until(lambda: self.store.list_tasks(TaskQuery(job_id=job_id)))))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.http.close()


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A mode at work: workers come and go, ``front`` is where jobs are submitted while ``worker`` runs."""

    start_worker: Callable[[], Service]
    front: Callable[[Service], Service]
    emulator: ServiceBusEmulator | None = None


@contextmanager
def deployed(
    mode: str, url: str, root: Path, database: Database, *, bus: EmulatorConfig | None = None, **common: str
) -> Iterator[Deployment]:
    """``mode`` with everything but its workers running; all of it is ended with the block."""
    services: list[Service] = []

    def start(role: str, settings: Mapping[str, str]) -> Service:
        given = {"DOCKER_ORCHESTRATION_MODE": mode, "LEASE_SECONDS": "20", **common, **settings}
        services.append(Service(url, root, database, role, **given))
        return services[-1]

    try:
        match mode:
            case "in_memory":
                yield Deployment(start_worker=lambda: start("embedded", {}), front=lambda worker: worker)
            case "service_bus":
                with ServiceBusEmulator(bus) as emulator:
                    address = {"SERVICE_BUS_CONNECTION_STRING": emulator.connection_string}
                    orchestrator = start("orchestrator", address)
                    yield Deployment(
                        start_worker=lambda: start("worker", address), front=lambda _: orchestrator, emulator=emulator
                    )
                    for service in services:
                        service.close()
            case "http_trigger":
                port = free_port()
                orchestrator = start("orchestrator", {"DOCKER_WORKER_URL": f"http://127.0.0.1:{port}"})
                yield Deployment(
                    start_worker=lambda: start("worker", {"PORT": str(port)}), front=lambda _: orchestrator
                )
    finally:
        for service in services:
            service.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
