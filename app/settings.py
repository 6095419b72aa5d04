"""The environment, parsed once into one frozen value. Secrets never print.

Every variable is a field here; ``docs/configuration.md`` is generated from this module.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from core.errors import ConfigurationError, Fault


class OrchestrationMode(StrEnum):
    """How work reaches the worker."""

    SERVICE_BUS = "service_bus"
    HTTP_TRIGGER = "http_trigger"
    IN_MEMORY = "in_memory"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0)]
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Settings(BaseModel):
    """Everything that can be set, each by the environment variable of its name in upper case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    docker_orchestration_mode: OrchestrationMode = Field(
        default=OrchestrationMode.IN_MEMORY,
        description="How work reaches the Docker worker: `service_bus` (it polls a queue), `http_trigger` "
        "(`POST /task/start`) or `in_memory` (one process, the embedded default).",
    )

    # State
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL connection string. Unset: `geoworker dev` and `demo` start an embedded one.",
    )
    database_entra_auth: bool = Field(
        default=False, description="Use an Entra ID token as the database password, renewed before it ends."
    )
    docker_db_pool_min: int = Field(default=2, ge=0, description="Connections the pool keeps open.")
    docker_db_pool_max: int = Field(default=10, ge=1, description="Most connections the pool opens.")
    data_dir: Path = Field(
        default=Path("geoworker-data"), description="Where the embedded PostgreSQL and local outputs are kept."
    )

    # Worker
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}",
        description="Names this process in leases, history and logs. Default: host and process id.",
    )
    worker_concurrency: int = Field(default=1, ge=1, le=64, description="Docker tasks run at a time.")
    functions_concurrency: int = Field(
        default=2, ge=1, le=64, description="Tasks of stages that run on functions, at a time, in an orchestrator."
    )
    lease_seconds: Seconds = Field(default=60.0, description="How long a claim holds without a heartbeat.")
    heartbeat_seconds: Seconds = Field(default=20.0, description="Time between heartbeats of a running task.")
    sweep_seconds: Seconds = Field(default=15.0, description="Time between passes of the sweeper.")
    hint_seconds: Seconds = Field(
        default=60.0, description="How long a message may go unanswered before it is sent again (then doubling)."
    )
    retry_base_seconds: Seconds = Field(default=5.0, description="Back-off after a first failure (full jitter).")
    retry_cap_seconds: Seconds = Field(default=300.0, description="Longest back-off after a failure.")
    shutdown_grace_seconds: Seconds = Field(
        default=20.0,
        description="How long a running handler has after SIGTERM to save its checkpoint and return. "
        "Keep it nine seconds below the platform's stop time (30 s on App Service and Container Apps): recording and "
        "closing may take that long when the database or the broker is out of reach.",
    )
    task_timeout_seconds: Seconds | None = Field(
        default=None, description="Time limit of a task that has none of its own. Unset: none."
    )
    task_stall_seconds: Seconds | None = Field(
        default=1800.0, description="A task without progress for this long is reported. Unset: never."
    )
    task_stall_kills: bool = Field(default=False, description="End a stalled task instead of only reporting it.")
    executor_recycle_tasks: int = Field(default=100, ge=1, description="Tasks a child process runs before a fresh one.")
    executor_recycle_mb: int = Field(
        default=2048, ge=64, description="A child process above this resident size (MiB) is replaced after its task."
    )
    memory_soft_percent: float = Field(
        default=85.0, gt=0, le=100, description="Share of the memory limit above which a task is asked to stop."
    )
    raster_tiling_threshold_mb: float = Field(
        default=2048.0,
        ge=0,
        description="Declared size (width x height x bands x bytes, in MiB) above which a raster becomes a mosaic of "
        "tiles instead of one COG.",
    )
    raster_memory_mb: int | None = Field(
        default=None,
        ge=128,
        description="Memory (MiB) that one raster task may take. Unset: a quarter of the container's limit, at most "
        "2048, divided by `WORKER_CONCURRENCY`.",
    )
    min_free_disk_mb: int = Field(
        default=512, ge=0, description="Free space (MiB) on the ETL mount below which no task is started."
    )
    work_keep_hours: float = Field(
        default=72.0,
        gt=0,
        description="How long the work files of a task are kept after its end. Those of a task that has not ended are "
        "never removed.",
    )
    etl_mount: Path | None = Field(
        default=None, description="Directory for work files and outputs (`/mounts/etl-temp`). Unset: `DATA_DIR`."
    )

    # Storage
    source_allowed_roots: Names = Field(
        default=(),
        description="Directories that sources may be read from, comma-separated; `/` opens the whole disk. Unset: the "
        "whole disk in `in_memory` mode on a loopback address, where work is of this machine only; else `ETL_MOUNT` "
        "and `DATA_DIR` only.",
    )
    output_allowed_roots: Names = Field(
        default=(), description="Directories that `output_dir` may name, comma-separated. Unset: likewise."
    )
    source_allowed_hosts: Names = Field(
        default=(),
        description="Hosts that `https://` sources may be had from (`*.example.org` matches subdomains). Unset: none.",
    )
    source_sas_urls: Secrets = Field(
        default=(),
        description="SAS URLs of containers or blobs, comma-separated (`https://<account>.blob.core.windows.net/bronze?sv=…"
        "&sig=…`): sources below them are read with their signature. Parameters never carry one.",
    )
    source_max_mb: int = Field(default=102_400, ge=1, description="Largest remote source (MiB) that is copied here.")
    source_ca_bundle: Path | None = Field(
        default=None, description="Certificates (PEM) to trust for `https://` sources, beside the usual authorities."
    )
    blob_account_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#@]+(/[A-Za-z0-9-]+)?/?$",
        description="Account of Blob Storage for sources and outputs (`https://<account>.blob.core.windows.net`).",
    )
    blob_account_key: SecretStr | None = Field(
        default=None, description="Its key. Unset: an Entra identity (managed or workload identity, `az login`)."
    )
    output_url: str | None = Field(
        default=None,
        pattern=r"^(az|https?)://[^?#@]+$",
        description="Where outputs go by default when no directory: `az://container/prefix` of `BLOB_ACCOUNT_URL`.",
    )

    # Service Bus
    service_bus_connection_string: SecretStr | None = Field(
        default=None, description="Service Bus connection string; `UseDevelopmentEmulator=true` is honoured."
    )
    service_bus_fqdn: str | None = Field(
        default=None, description="Namespace host name (`x.servicebus.windows.net`), used with an Entra identity."
    )
    service_bus_websockets: bool = Field(default=False, description="AMQP over websockets (port 443).")
    service_bus_max_wait_seconds: Seconds = Field(default=30.0, description="Length of one long poll.")
    jobs_queue: str = Field(default="geospatial-jobs", description="Queue of jobs and stage completions.")
    functions_queue: str = Field(default="geospatial-tasks", description="Queue of tasks that run on functions.")
    docker_queue: str = Field(default="long-running-tasks", description="Queue of tasks that run on the worker.")

    # HTTP
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    docker_worker_url: str | None = Field(
        default=None, description="The worker's base URL, where `http_trigger` sends tasks."
    )
    docker_worker_api_key: SecretStr | None = Field(
        default=None, description="API key sent to the worker with each task."
    )
    docker_worker_scope: str | None = Field(
        default=None,
        description="Scope of the Entra token sent to the worker with each task (`api://<client id>/.default`).",
    )
    api_keys: Secrets = Field(
        default=(), description="Accepted API keys, comma-separated (several at once for rotation)."
    )
    entra_authority: str = Field(
        default="https://login.microsoftonline.com",
        description="Where the tenant's keys and issuer are (`https://login.microsoftonline.us` in US Government).",
    )
    entra_tenant_id: str | None = Field(default=None, description="Tenant whose bearer tokens are accepted.")
    entra_audience: str | None = Field(default=None, description="Audience that bearer tokens must have.")
    entra_allowed_app_ids: Names = Field(default=(), description="Client ids that may call; empty: any of the tenant.")
    callback_url: str | None = Field(
        default=None, description="Where the worker reports ended tasks (the Function App's `/api/task/callback`)."
    )
    callback_secrets: Secrets = Field(
        default=(), description="Standard Webhooks secrets (`whsec_…`): the first signs, all verify."
    )
    callback_allowed_hosts: Names = Field(
        default=(), description="Hosts a callback may go to (`*.example.org` matches subdomains)."
    )
    callback_max_age_seconds: Seconds = Field(
        default=86400.0, description="After this long an unacknowledged callback is given up and shown as undelivered."
    )
    callback_timeout_seconds: Seconds = Field(
        default=15.0, description="How long one try of a callback waits for an answer."
    )
    allow_private_addresses: bool = Field(
        default=False, description="Let callbacks and sources reach private and loopback addresses."
    )
    max_backlog: int = Field(
        default=1000, ge=1, description="Accepted tasks that may wait before `POST /task/start` answers 429."
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="Largest request body accepted.")
    enable_test_endpoints: bool = Field(default=False, description="Serve `/api/test/*`. Never in production.")
    test_requests_per_minute: int = Field(
        default=60, ge=1, description="Test executions that each caller may start in a minute."
    )
    test_time_limit_seconds: float = Field(
        default=60.0, gt=0, le=200, description="Time limit of a handler run by `/api/test/execute`."
    )

    # Telemetry
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged."
    )
    log_format: LogFormat = Field(
        default_factory=lambda: LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON,
        description="`json` or `console`. Default: console on a terminal, else JSON.",
    )
    applicationinsights_connection_string: SecretStr | None = Field(
        default=None, description="Send traces to Azure Monitor (needs the extra `azure-monitor`)."
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, description="Send OpenTelemetry traces there. Unset: no traces."
    )

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Parse ``environment`` (default: ``os.environ``); ``overrides`` win.

        Raises:
            ConfigurationError: naming every variable that is wrong or missing, all at once.
        """
        source = os.environ if environment is None else environment
        given = {
            name: value
            for name in cls.model_fields
            if (value := source.get(name.upper(), source.get(name))) is not None and value.strip()
        }
        try:
            return cls.model_validate({**given, **overrides})
        except ValidationError as error:
            raise ConfigurationError(
                "settings",
                [
                    Fault(
                        ".".join(str(part) for part in fault["loc"]).upper() or "SETTINGS",
                        fault["msg"].removeprefix("Value error, "),
                    )
                    for fault in error.errors(include_url=False, include_input=False)
                ],
            ) from None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.docker_db_pool_max < max(1, self.docker_db_pool_min):
            raise ValueError("DOCKER_DB_POOL_MAX must not be below DOCKER_DB_POOL_MIN")
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS")
        if self.retry_cap_seconds < self.retry_base_seconds:
            raise ValueError("RETRY_CAP_SECONDS must not be below RETRY_BASE_SECONDS")
        return self

    @property
    def has_authentication(self) -> bool:
        """Whether callers can be told apart."""
        return bool(self.api_keys) or self.entra_tenant_id is not None

    @property
    def has_service_bus(self) -> bool:
        """Whether a Service Bus namespace is named."""
        return self.service_bus_connection_string is not None or self.service_bus_fqdn is not None

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach this process."""
        return self.host not in _LOOPBACK

    @property
    def output_dir(self) -> Path:
        """Where outputs go."""
        return (self.etl_mount or self.data_dir).expanduser().resolve() / "outputs"

    @property
    def work_root(self) -> Path:
        """Where tasks keep their work files."""
        return (self.etl_mount or self.data_dir).expanduser().resolve() / "work"

    def require_authentication(self) -> None:
        """Refuse to listen beyond loopback without a way to tell callers apart.

        Raises:
            ConfigurationError: when `HOST` is not a loopback address and neither `API_KEYS` nor Entra is set.
        """
        if self.listens_beyond_loopback and not self.has_authentication:
            raise ConfigurationError(
                "authentication",
                [
                    Fault(
                        "API_KEYS",
                        f"must be set (or ENTRA_TENANT_ID and ENTRA_AUDIENCE) to listen on {self.host}; "
                        "only loopback may be served without authentication",
                    )
                ],
            )
