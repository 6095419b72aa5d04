"""Where each setting counts: in which processes and in which modes. `docs/configuration.md` is made from this.

A setting that is missing here fails ``test_every_setting_is_in_the_catalogue``, which names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.settings import OrchestrationMode

_SERVICE_BUS = frozenset({OrchestrationMode.SERVICE_BUS})
_HTTP_TRIGGER = frozenset({OrchestrationMode.HTTP_TRIGGER})
_OWN_QUEUES = _SERVICE_BUS | _HTTP_TRIGGER  # in http_trigger mode an orchestrator may keep its two queues there
_ALL_MODES = frozenset(OrchestrationMode)


class Process(StrEnum):
    """The kinds of process that read settings."""

    WORKER = "worker"
    ORCHESTRATOR = "orchestrator"
    FUNCTION_APP = "function-app"
    DEV = "dev"


_ALL = frozenset(Process)
_PLANNERS = frozenset({Process.ORCHESTRATOR, Process.FUNCTION_APP, Process.DEV})
_RUNNERS = frozenset({Process.WORKER, Process.DEV})
_LISTENERS = frozenset({Process.WORKER, Process.ORCHESTRATOR, Process.DEV})
_APART = frozenset({Process.WORKER, Process.ORCHESTRATOR, Process.FUNCTION_APP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """The processes and modes in which a setting counts. ``worker_modes``: those of a worker, where they are fewer."""

    processes: frozenset[Process] = _ALL
    modes: frozenset[OrchestrationMode] = _ALL_MODES
    worker_modes: frozenset[OrchestrationMode] | None = None

    def modes_in(self, process: Process) -> frozenset[OrchestrationMode]:
        """The modes in which it makes a difference in that process."""
        if process not in self.processes:
            return frozenset()
        if process is Process.WORKER and self.worker_modes is not None:
            return self.worker_modes
        return self.modes

    def counts(self, process: Process, mode: OrchestrationMode) -> bool:
        """Whether it makes a difference there."""
        return mode in self.modes_in(process)


EVERYWHERE = Use()
_CLIENT = Use(processes=_APART, modes=_OWN_QUEUES, worker_modes=_SERVICE_BUS)

CATALOGUE: Mapping[str, Mapping[str, Use]] = {
    "Mode": {"docker_orchestration_mode": EVERYWHERE},
    "State": {
        "database_url": EVERYWHERE,
        "database_entra_auth": EVERYWHERE,
        "docker_db_pool_min": EVERYWHERE,
        "docker_db_pool_max": EVERYWHERE,
        "data_dir": EVERYWHERE,
    },
    "Work": {
        "worker_id": EVERYWHERE,
        "worker_concurrency": Use(processes=_RUNNERS),
        "functions_concurrency": Use(processes=frozenset({Process.ORCHESTRATOR, Process.DEV})),
        "lease_seconds": EVERYWHERE,
        "heartbeat_seconds": EVERYWHERE,
        "sweep_seconds": EVERYWHERE,
        "hint_seconds": EVERYWHERE,
        "retry_base_seconds": EVERYWHERE,
        "retry_cap_seconds": EVERYWHERE,
        "shutdown_grace_seconds": EVERYWHERE,
        "task_timeout_seconds": EVERYWHERE,
        "task_stall_seconds": Use(processes=_RUNNERS),
        "task_stall_kills": Use(processes=_RUNNERS),
        "executor_recycle_tasks": Use(processes=_RUNNERS),
        "executor_recycle_mb": Use(processes=_RUNNERS),
        "memory_soft_percent": Use(processes=_RUNNERS),
        "raster_tiling_threshold_mb": Use(processes=_RUNNERS),
        "raster_memory_mb": Use(processes=_RUNNERS),
        "min_free_disk_mb": Use(processes=_RUNNERS),
        "work_keep_hours": Use(processes=_RUNNERS),
        "etl_mount": EVERYWHERE,
    },
    "Storage": {
        "source_allowed_roots": EVERYWHERE,
        "output_allowed_roots": EVERYWHERE,
        "source_allowed_hosts": EVERYWHERE,
        "source_sas_urls": EVERYWHERE,
        "source_max_mb": EVERYWHERE,
        "source_ca_bundle": EVERYWHERE,
        "blob_account_url": EVERYWHERE,
        "blob_account_key": EVERYWHERE,
        "output_url": EVERYWHERE,
    },
    "Service Bus": {
        "service_bus_connection_string": _CLIENT,
        "service_bus_fqdn": _CLIENT,
        "service_bus_websockets": _CLIENT,
        "service_bus_max_wait_seconds": Use(
            processes=frozenset({Process.WORKER, Process.ORCHESTRATOR}), modes=_OWN_QUEUES, worker_modes=_SERVICE_BUS
        ),
        "jobs_queue": _CLIENT,
        "functions_queue": Use(processes=_APART - {Process.WORKER}, modes=_OWN_QUEUES),
        "docker_queue": Use(processes=_APART, modes=_SERVICE_BUS),
    },
    "HTTP": {
        "host": Use(processes=_LISTENERS),
        "port": Use(processes=_LISTENERS),
        "docker_worker_url": Use(processes=_PLANNERS, modes=_HTTP_TRIGGER),
        "docker_worker_api_key": Use(processes=_PLANNERS, modes=_HTTP_TRIGGER),
        "docker_worker_scope": Use(processes=_PLANNERS, modes=_HTTP_TRIGGER),
        "api_keys": EVERYWHERE,
        "entra_authority": EVERYWHERE,
        "entra_tenant_id": EVERYWHERE,
        "entra_audience": EVERYWHERE,
        "entra_allowed_app_ids": EVERYWHERE,
        "callback_url": Use(processes=_PLANNERS, modes=_HTTP_TRIGGER),
        "callback_secrets": EVERYWHERE,
        "callback_allowed_hosts": Use(processes=_RUNNERS),
        "callback_max_age_seconds": EVERYWHERE,
        "callback_timeout_seconds": Use(processes=_RUNNERS),
        "allow_private_addresses": EVERYWHERE,
        "max_backlog": Use(processes=frozenset({Process.WORKER}), modes=_HTTP_TRIGGER),
        "max_body_bytes": EVERYWHERE,
        "enable_test_endpoints": Use(processes=_PLANNERS),
        "test_requests_per_minute": Use(processes=_PLANNERS),
        "test_time_limit_seconds": Use(processes=_PLANNERS),
    },
    "Telemetry": {
        "log_level": EVERYWHERE,
        "log_format": EVERYWHERE,
        "applicationinsights_connection_string": EVERYWHERE,
        "otel_exporter_otlp_endpoint": EVERYWHERE,
    },
}
"""Section of the page -> setting -> where it counts."""

PLATFORM_VARIABLES: Mapping[str, str] = {
    "AZURE_CLIENT_ID": "Which user-assigned managed identity `DefaultAzureCredential` uses.",
    "ServiceBusConnection": "Function App only: the triggers' connection string (local development).",
    "ServiceBusConnection__fullyQualifiedNamespace": "Function App only: the namespace that the triggers listen on.",
    "ServiceBusConnection__credential": "Function App only: `managedidentity`.",
    "ServiceBusConnection__clientId": "Function App only: the client id of the identity that the triggers use.",
    "AzureWebJobsStorage": "Function App only: the host's own storage, as a connection string (local development).",
    "AzureWebJobsStorage__accountName": "Function App only: the host's own storage account.",
    "AzureWebJobsStorage__credential": "Function App only: `managedidentity`.",
    "AzureWebJobsStorage__clientId": "Function App only: the client id of the identity for that account.",
    "FUNCTIONS_WORKER_RUNTIME": "Function App only, local development: `python`.",
    "WEBSITES_PORT": "App Service only: the port that the container listens on; the same as `PORT`.",
    "WEBSITES_CONTAINER_START_TIME_LIMIT": "App Service only: seconds a container may take to answer its first probe.",
    "WEBSITES_CONTAINER_STOP_TIME_LIMIT": "App Service only: seconds between SIGTERM and SIGKILL (at most 120).",
    "WEBSITES_ENABLE_APP_SERVICE_STORAGE": "App Service only: `false`; the work files are on the ETL mount.",
    "WEBSITE_HEALTHCHECK_MAXPINGFAILURES": "App Service only: failed health probes before an instance is replaced.",
}
"""Variables that the platform or a library reads, not this project; deployments may set them."""


def entries() -> Iterator[tuple[str, str, Use]]:
    """Section, setting and use, in the order of the page."""
    for section, settings in CATALOGUE.items():
        for name, use in settings.items():
            yield section, name, use


def use_of(name: str) -> Use:
    """Where a setting counts. Raises KeyError for what is no setting."""
    return next(use for _, found, use in entries() if found == name)
