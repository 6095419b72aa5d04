"""The environment to Settings."""

from __future__ import annotations

import pytest

from app.settings import OrchestrationMode, Settings
from core.errors import ConfigurationError


def test_defaults_are_the_embedded_mode_on_loopback() -> None:
    settings = Settings.from_env({})
    assert settings.docker_orchestration_mode is OrchestrationMode.IN_MEMORY
    settings.require_authentication()


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"DOCKER_ORCHESTRATION_MODE": "x", "WORKER_CONCURRENCY": "0", "PORT": "99999"})
    fields = {fault.field for fault in caught.value.faults}
    assert fields == {"DOCKER_ORCHESTRATION_MODE", "WORKER_CONCURRENCY", "PORT"}


@pytest.mark.parametrize(
    "environment",
    [
        {"DOCKER_DB_POOL_MIN": "5", "DOCKER_DB_POOL_MAX": "2"},
        {"HEARTBEAT_SECONDS": "40", "LEASE_SECONDS": "60"},
        {"RETRY_BASE_SECONDS": "10", "RETRY_CAP_SECONDS": "5"},
    ],
)
def test_values_that_do_not_fit_together_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="_"):
        Settings.from_env(environment)


def test_secrets_never_print() -> None:
    settings = Settings.from_env(
        {
            "DATABASE_URL": "postgresql://user:hunter2@host/db",
            "API_KEYS": "hunter2,hunter3",
            "SERVICE_BUS_CONNECTION_STRING": "Endpoint=sb://x;SharedAccessKey=hunter2",
            "CALLBACK_SECRETS": "whsec_hunter2",
        }
    )
    assert "hunter" not in repr(settings)
    assert "hunter" not in str(settings.model_dump())


def test_a_fault_does_not_print_the_secret_it_is_in() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"PORT": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_beyond_loopback_authentication_must_be_configured() -> None:
    with pytest.raises(ConfigurationError, match="API_KEYS"):
        Settings.from_env({"HOST": "0.0.0.0"}).require_authentication()
    Settings.from_env({"HOST": "0.0.0.0", "API_KEYS": "a-key"}).require_authentication()
    Settings.from_env({"HOST": "0.0.0.0", "ENTRA_TENANT_ID": "t", "ENTRA_AUDIENCE": "a"}).require_authentication()


def test_empty_values_are_unset() -> None:
    assert Settings.from_env({"DATABASE_URL": "", "API_KEYS": " "}).database_url is None
