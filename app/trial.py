"""One handler, run on mock infrastructure in a process of its own: ``python -m app.trial PARCEL``.

The parcel is a directory with the request (``request.json``). The answer (``answer.json``) goes there too, and so does
every file that the handler writes. The process has none of the settings of the one that starts it: no database, no
queue, no credentials.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_REQUEST, _ANSWER, _OUTPUT = "request.json", "answer.json", "output.txt"
_PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PROJ_DATA", "GDAL_DATA")
_LAST_WORDS = 2000
STOP_GRACE_SECONDS = 5.0
"""How long a handler that was asked to stop at the time limit has before its process group is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a handler did and would have caused."""

    success: bool
    elapsed_seconds: float
    handler_result: Mapping[str, Any]
    lifecycle: Mapping[str, Any] = field(default_factory=dict)
    captured_messages: list[Mapping[str, Any]] = field(default_factory=list)
    state_snapshot: Mapping[str, Any] = field(default_factory=dict)


def try_handler(
    task_type: str, parameters: Mapping[str, Any], job_type: str, *, time_limit: float, storage: Mapping[str, Any]
) -> Trial:
    """Run a registered handler on mock infrastructure, in a child process with a directory that goes with it.

    ``storage`` says which sources it may read (``StorageSpec.as_dict()``).

    At ``time_limit`` seconds the handler is asked to stop; ``STOP_GRACE_SECONDS`` later its process group is killed.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="geoworker-trial-") as name:
        parcel = Path(name)
        request = {"task_type": task_type, "parameters": parameters, "job_type": job_type, "time_limit": time_limit}
        request["storage"] = storage
        (parcel / _REQUEST).write_text(json.dumps(request))
        ended = _run(parcel, time_limit + STOP_GRACE_SECONDS)
        elapsed = round(time.monotonic() - started, 3)
        answer = parcel / _ANSWER
        if ended is None and answer.exists():
            return Trial(**json.loads(answer.read_text()))
        said = (parcel / _OUTPUT).read_text(errors="replace")[-_LAST_WORDS:]
        logger.error("a trial of %s ended without an answer: %s", task_type, said, extra={"action": "trial.died"})
        error, kind = ended or ("the handler's process ended without an answer", "HandlerProcessDied")
        return Trial(
            success=False,
            elapsed_seconds=elapsed,
            handler_result={"success": False, "error": error, "error_type": kind},
            lifecycle={"task_id": None, "job_id": None, "job_type": job_type, "stage": None},
        )


def child_environment() -> dict[str, str]:
    """What a trial knows of this process's environment: where programs are, and nothing to connect with."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _run(parcel: Path, patience: float) -> tuple[str, str] | None:
    """Run the child; None when it ended by itself, else what ended it and the error's type."""
    with (parcel / _OUTPUT).open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - this module, by its own interpreter
            [sys.executable, "-m", "app.trial", str(parcel)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            code = child.wait(patience)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_group(child)
    if code is None:
        return f"the handler did not end within {patience:g} s and was killed", "TaskTimeout"
    if code < 0:
        return f"the handler's process was ended by {signal.Signals(-code).name}", "HandlerProcessDied"
    return None


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the child's process group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main(parcel: Path) -> None:
    """Run the parcel's request and leave the answer beside it."""
    from core.stopping import StopReason, StopToken
    from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
    from testing import setup_single_task_test
    from testing.test_core_machine import DefaultServices

    request = json.loads((parcel / _REQUEST).read_text())
    machine, state, messages, message = setup_single_task_test(
        request["task_type"],
        request["parameters"],
        request["job_type"],
        work_root=parcel / "work",
        services=DefaultServices(parcel / "outputs", storage=HandlerStorage(StorageSpec.from_dict(request["storage"]))),
    )
    stop = StopToken()
    timer = threading.Timer(request["time_limit"], stop.request, [StopReason.TIMEOUT])
    timer.daemon = True
    timer.start()
    started = time.monotonic()
    result = machine.process_task_message(message, stop=stop)
    elapsed = time.monotonic() - started
    timer.cancel()
    answer = {
        "success": bool(result.get("success")) and not result.get("interrupted"),
        "elapsed_seconds": round(elapsed, 3),
        "handler_result": result,
        "lifecycle": {
            "task_id": message.task_id,
            "job_id": message.parent_job_id,
            "job_type": request["job_type"],
            "stage": message.stage,
        },
        "captured_messages": messages.get_message_summary(),
        "state_snapshot": state.get_state_snapshot(),
    }
    part = parcel / f"{_ANSWER}.part"
    part.write_text(json.dumps(_json_ready(answer), allow_nan=False))
    part.replace(parcel / _ANSWER)


def _json_ready(value: Any) -> Any:
    """JSON has no NaN and no infinities; what else it lacks becomes text."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): _json_ready(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_ready(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
