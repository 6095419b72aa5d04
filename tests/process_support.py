"""Watching processes from the outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_alive(pid: int) -> bool:
    """Whether a process still runs (a zombie that nobody waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What ``condition`` gives as soon as it is true; an assertion fails after ``seconds``."""
    give_up_at = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.01)
    return found


def read_pid(path: Path, seconds: float = 30.0) -> int:
    """The process id that a process writes to ``path``."""
    return int(wait_until(lambda: path.exists() and path.read_text(), seconds))
