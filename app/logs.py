"""Log lines in the form that the settings name."""

from __future__ import annotations

from app.settings import LogFormat, Settings
from infrastructure.telemetry import logs


def configure_logging(settings: Settings) -> None:
    """Send every log line to standard error in the format that the settings name."""
    logs.configure_logging(settings.log_level, as_json=settings.log_format is LogFormat.JSON)
