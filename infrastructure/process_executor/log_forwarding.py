"""Log records from the child to the worker, live."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from infrastructure.process_executor.framing import ChannelBroken, Frame, FrameChannel
from infrastructure.process_executor.rate import RateLimit
from infrastructure.redaction import json_ready, redact

_MAX_TEXT = 8_000
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FORMAT = logging.Formatter()


class ForwardHandler(logging.Handler):
    """Sends each record as a frame. Beyond 500 a second, records below WARNING are dropped and counted."""

    def __init__(self, channel: FrameChannel) -> None:
        super().__init__()
        self._channel = channel
        self._rate = RateLimit(per_second=500, burst=1000)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record. In a fork of the child it is printed instead: the channel belongs to the child alone."""
        if not self._channel.is_ours:
            print(f"{record.levelname} {record.name}: {redact(_message(record))}", file=sys.stderr)  # noqa: T201
            return
        if not self._rate.allows() and record.levelno < logging.WARNING:
            return
        try:
            frame = to_frame(record)
            if dropped := self._rate.take_dropped():
                frame["extra"]["dropped_records"] = dropped
            self._channel.send(frame)
        except ChannelBroken:
            return  # the worker is gone, and this process soon
        except Exception:  # noqa: BLE001 - logging never fails its caller
            self.handleError(record)


def to_frame(record: logging.LogRecord) -> Frame:
    """A record as JSON, redacted and bounded."""
    trace = None
    if record.exc_info:
        trace = redact(_FORMAT.formatException(record.exc_info))[-_MAX_TEXT:]
    return {
        "type": "log",
        "logger": record.name,
        "level": record.levelno,
        "message": redact(_message(record))[:_MAX_TEXT],
        "created": record.created,
        "thread": record.threadName,
        "place": [record.pathname, record.lineno, record.funcName],
        "traceback": trace,
        "extra": {name: json_ready(value) for name, value in vars(record).items() if name not in _STANDARD},
    }


def emit_in_worker(frame: Frame, ids: Mapping[str, Any]) -> None:
    """Give a forwarded record to this process's logging, with the ids of the task that it belongs to."""
    logger = logging.getLogger(str(frame["logger"]))
    if not logger.isEnabledFor(frame["level"]):
        return
    path, line, function = frame["place"]
    logger.handle(
        logging.makeLogRecord(
            {
                **frame["extra"],
                **ids,
                "name": frame["logger"],
                "levelno": frame["level"],
                "levelname": logging.getLevelName(frame["level"]),
                "msg": frame["message"],
                "args": None,
                "created": frame["created"],
                "msecs": frame["created"] % 1 * 1000,
                "threadName": frame["thread"],
                "pathname": path,
                "lineno": line,
                "funcName": function,
                "exc_text": frame["traceback"],
            }
        )
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format string in a handler's log call
        return f"{record.msg!r} % {record.args!r}"
