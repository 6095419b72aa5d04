"""Replays deploy/worker/Dockerfile without a container engine, and holds what comes out to what the image promises.

Run it as root with a development environment: ``python deploy/worker/replay``. Every RUN step is executed in a
throwaway root (an overlay of this machine whose ``/usr/local`` has Python 3.11 alone, with projects and homes hidden);
COPY, ENV, USER, WORKDIR and the rest are followed. Then, as the image's unprivileged user and as process 1 of a PID
namespace, a worker and an orchestrator are started in both modes, on a real PostgreSQL and the Service Bus emulator:
``/livez`` and ``/readyz`` answer, the HEALTHCHECK passes, a real raster is handled, SIGTERM drains and ends with 0.

It is not an engine: layers, the registry's base image and the seccomp profile are not part of it. The root has this
machine's system libraries; that the image would have those that the wheels want is checked from their headers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from build import Image, build
from dockerfile import read
from libraries import INSTALLED, OF_THE_BASE, wanted
from processes import Container, forward

from infrastructure.postgres.embedded import EmbeddedPostgres
from testing.emulator import ServiceBusEmulator

HERE = Path(__file__).resolve().parent
CONTEXT = HERE.parents[2]
DOCKERFILE = HERE.parent / "Dockerfile"
DRIVERS = HERE.parent / "gdal-drivers.txt"
SAMPLE = CONTEXT / "services" / "raster" / "sample" / "RGB.byte.tif"
RASTER = "/mounts/etl-temp/RGB.byte.tif"
"""On the mount: a worker reads sources from nowhere else of its disk."""
_DRIVERS = """
import rasterio
with rasterio.Env() as env:
    print(f"GDAL {rasterio.__gdal_version__}, rasterio {rasterio.__version__}", *sorted(env.drivers()), sep=chr(10))
"""
_WRITABLE = r"find /opt/geoworker /usr/local/bin \( -user 10001 -o -perm -o+w \) -not -type l -print -quit"


def main() -> None:
    """Go into a mount namespace, or, inside it, replay and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write-drivers", action="store_true", help="write gdal-drivers.txt instead of comparing it")
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.directory is not None:
        replay(options.directory, write_drivers=options.write_drivers)
        return
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"the image has Python 3.11, and this is {sys.version.split()[0]}: make the environment with 3.11")
    if os.geteuid() != 0 or None in (shutil.which("unshare"), shutil.which("readelf")):
        sys.exit(
            "the replay mounts file systems: run it as root on Linux with util-linux (unshare) and binutils (readelf)"
        )
    with tempfile.TemporaryDirectory(prefix="geoworker-replay-") as directory:
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, str(HERE), *sys.argv[1:]]
        os.chmod(directory, 0o755)  # noqa: S103 - the image's user walks through it
        sys.exit(subprocess.run([*words, "--directory", directory], check=False).returncode)


def replay(directory: Path, *, write_drivers: bool) -> None:
    """Build, then check."""
    began = time.monotonic()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g,mode=0755", "tmpfs", str(directory)], check=True)
    revision = subprocess.run(
        ["git", "-C", str(CONTEXT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    arguments = {"REVISION": revision or "unknown"}
    image = build(read(DOCKERFILE, arguments), CONTEXT, directory, arguments)
    user = {"user": image.user, "folder": image.folder}
    writable = image.root.run(["/bin/sh", "-c", _WRITABLE], image.environment)
    if writable:
        sys.exit(f"the image's user can write {writable}")
    system = wanted(image.root.path / "opt" / "geoworker")
    if system - OF_THE_BASE != INSTALLED:
        sys.exit(f"the wheels want {sorted(system - OF_THE_BASE)} of the system, and the Dockerfile brings {INSTALLED}")
    image.root.run(["python", "-c", "import azure.monitor.opentelemetry.exporter"], image.environment, **user)
    drivers = image.root.run(["python", "-c", _DRIVERS], image.environment, **user)
    if write_drivers:
        DRIVERS.write_text(drivers, encoding="utf-8")
    elif drivers != DRIVERS.read_text(encoding="utf-8"):
        sys.exit(f"the image's GDAL is another than {DRIVERS.name} tells; see `--write-drivers`\n{drivers}")
    print(f"built in {time.monotonic() - began:.0f} s; {len(drivers.splitlines()) - 1} GDAL drivers", flush=True)
    shutil.copy(SAMPLE, image.root.path / RASTER.lstrip("/"))
    _run_modes(image, directory)
    print(f"replayed in {time.monotonic() - began:.0f} s")


def _run_modes(image: Image, directory: Path) -> None:
    with EmbeddedPostgres(directory / "postgres") as server, contextlib.ExitStack() as stack:
        address = urlsplit(server.start())
        socket_folder = parse_qs(address.query)["host"][0]
        port = stack.enter_context(forward(f"{socket_folder}/.s.PGSQL.5432"))
        common = {
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{port}/postgres",
            "API_KEYS": secrets.token_urlsafe(24),
        }
        _http_trigger(image, directory, common)
        _service_bus(image, directory, common)


def _http_trigger(image: Image, directory: Path, common: dict[str, str]) -> None:
    environment = {**common, "DOCKER_ORCHESTRATION_MODE": "http_trigger"}
    with contextlib.closing(Container(image, image.command, environment, directory / "worker.log")) as worker:
        worker.wait_for("/livez", 200)
        worker.wait_for("/readyz", 200)
        worker.probe()
        task = {"task_id": "replay-1", "task_type": "validate_raster", "params": {"source_url": RASTER}}
        status, answer = worker.call("/task/start", task)
        if status != 202:
            worker.fail(f"POST /task/start answered {status}: {answer}")
        ended = worker.wait_for("/task/replay-1", 200)
        if ended.get("status") != "completed":
            worker.fail(f"the raster was not validated: {json.dumps(ended)[:2000]}")
        seconds = worker.terminate()
    print(f"http_trigger: worker validated a raster, drained in {seconds:.1f} s, exit 0", flush=True)


def _service_bus(image: Image, directory: Path, common: dict[str, str]) -> None:
    with contextlib.ExitStack() as stack:
        emulator = stack.enter_context(ServiceBusEmulator())
        environment = {
            **common,
            "DOCKER_ORCHESTRATION_MODE": "service_bus",
            "SERVICE_BUS_CONNECTION_STRING": emulator.connection_string,
        }
        running = {}
        for role in ("orchestrator", "worker"):
            log = directory / f"{role}-service-bus.log"
            running[role] = stack.enter_context(contextlib.closing(Container(image, [role], environment, log)))
        for container in running.values():
            container.wait_for("/readyz", 200)
        front = running["orchestrator"]
        status, answer = front.call("/api/jobs/submit/process_raster_docker", {"source_url": RASTER})
        if status not in (200, 201, 202):
            front.fail(f"the job was refused with {status}: {answer}")
        deadline = time.monotonic() + 60
        job, connections = answer, 0
        while job["status"] not in ("completed", "failed") and time.monotonic() < deadline:
            time.sleep(0.2)
            connections = max(connections, emulator.connections())
            _, job = front.call(f"/api/jobs/status/{answer['job_id']}")
        if job["status"] != "completed":
            running["worker"].fail(f"the job did not complete: {json.dumps(job)[:2000]}")
        seconds = {role: container.terminate() for role, container in running.items()}
    ended = ", ".join(f"{role} drained in {taken:.1f} s" for role, taken in seconds.items())
    print(f"service_bus: process_raster_docker completed over {connections} connections; {ended}, exit 0", flush=True)


if __name__ == "__main__":
    main()
