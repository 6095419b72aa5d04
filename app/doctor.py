"""What is wrong with this machine's set-up, and what to do: ``geoworker doctor``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from app.role import Role
from app.session import open_session
from app.settings import OrchestrationMode, Settings
from app.storage import storage_spec
from app.transport import transport_for
from core.errors import GeoworkerError
from infrastructure.postgres.migrations import pending
from infrastructure.storage.handler_storage import HandlerStorage


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its subject, how it went, what was found, and what to do."""

    subject: str
    verdict: Verdict
    text: str
    advice: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def diagnose(settings: Settings) -> list[Finding]:
    """Every check, in order. A check that breaks is a finding, never a traceback."""
    checks: list[Callable[[Settings], Finding]] = [
        _python,
        _mode,
        _listen,
        _database,
        _gdal,
        _disk,
        _storage,
        _memory,
        _identity,
    ]
    findings: list[Finding] = []
    for check in checks:
        subject = check.__name__.strip("_")
        try:
            findings.append(check(settings))
        except GeoworkerError as error:
            findings.append(Finding(subject, Verdict.FAULT, str(error)))
        except Exception as error:  # noqa: BLE001 - a doctor reports, whatever breaks
            findings.append(
                Finding(subject, Verdict.FAULT, f"the check itself failed: {type(error).__name__}: {error}")
            )
    return findings


def _python(_: Settings) -> Finding:
    return Finding("python", Verdict.OK, f"{sys.version.split()[0]} at {sys.executable}")


def _mode(settings: Settings) -> Finding:
    mode = settings.docker_orchestration_mode
    transport_for(settings, Role.EMBEDDED if mode is OrchestrationMode.IN_MEMORY else Role.WORKER)
    return Finding("mode", Verdict.OK, f"DOCKER_ORCHESTRATION_MODE={mode}")


def _listen(settings: Settings) -> Finding:
    settings.require_authentication()
    how = "API keys" if settings.api_keys else "Entra ID" if settings.entra_tenant_id else "none (loopback only)"
    return Finding("listen", Verdict.OK, f"{settings.host}:{settings.port}, authentication: {how}")


def _database(settings: Settings) -> Finding:
    embedded = settings.database_url is None
    try:
        with open_session(settings, apply_migrations=False) as session:
            row = session.database.row("SELECT current_setting('server_version') AS version")
            waiting = pending(session.database)
    except GeoworkerError as error:
        advice = "install the embedded server: pip install 'geoworker[embedded]'" if embedded else "check DATABASE_URL"
        return Finding("database", Verdict.FAULT, str(error), advice)
    kind = "embedded PostgreSQL" if embedded else "PostgreSQL"
    text = f"{kind} {row['version'] if row is not None else '?'}"
    if waiting:
        return Finding("database", Verdict.WARNING, f"{text}; schema lacks {', '.join(waiting)}", "geoworker migrate")
    return Finding("database", Verdict.OK, f"{text}; schema up to date")


def _gdal(_: Settings) -> Finding:
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    extensions = len(raster_driver_extensions())
    return Finding(
        "gdal",
        Verdict.OK,
        f"GDAL {rasterio.__gdal_version__} (rasterio {rasterio.__version__}), {extensions} extensions",
    )


def _disk(settings: Settings) -> Finding:
    root = settings.work_root
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free // 2**20
    if not os.access(root, os.W_OK):
        return Finding(
            "disk", Verdict.FAULT, f"{root} cannot be written", "set DATA_DIR or ETL_MOUNT to a writable place"
        )
    if free < settings.min_free_disk_mb:
        advice = f"free some, or lower MIN_FREE_DISK_MB ({settings.min_free_disk_mb})"
        return Finding("disk", Verdict.FAULT, f"{free} MiB free at {root}", advice)
    return Finding("disk", Verdict.OK, f"{free} MiB free at {root}")


def _storage(settings: Settings) -> Finding:
    spec = storage_spec(settings)
    absent = [root for root in settings.source_allowed_roots if not os.path.isdir(root)]
    if absent:
        text = f"SOURCE_ALLOWED_ROOTS: {', '.join(absent)} is not there"
        return Finding("storage", Verdict.WARNING, text, "mount it, or take it off the list")
    storage = HandlerStorage(spec)
    try:
        if settings.output_url is not None:
            storage.destination(settings.output_url, field="OUTPUT_URL")
        blob = storage.check_blob()
    finally:
        storage.close()
    local = "the whole disk" if spec.source_roots is None else ", ".join(spec.source_roots)
    hosts = ", ".join(spec.allowed_hosts) or "none"
    return Finding("storage", Verdict.OK, f"sources: {local}; hosts: {hosts}; Blob Storage: {blob or 'not set up'}")


def _memory(_: Settings) -> Finding:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    total = pages * size // 2**20
    if total < 2048:
        return Finding("memory", Verdict.WARNING, f"{total} MiB", "large rasters want 4 GiB or more")
    return Finding("memory", Verdict.OK, f"{total} MiB, {os.cpu_count()} cores")


def _identity(settings: Settings) -> Finding:
    if not settings.database_entra_auth:
        return Finding("identity", Verdict.OK, "no Entra identity is needed by these settings")
    from infrastructure.credentials import entra_database_password

    try:
        entra_database_password()()
    except Exception as error:  # noqa: BLE001 - azure-identity's errors are many
        first_line = str(error).splitlines()[0]
        return Finding("identity", Verdict.FAULT, first_line, "sign in (az login) or give the app a managed identity")
    return Finding("identity", Verdict.OK, "an Entra token for the database was had")
