"""Validates the sources on standard input, one a line, and prints what became of each and the most memory it took.

Run as a process of its own, so that the memory is that of the handler alone: ``python -m tests.hostile_child``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from app.run_handler import run_one
from app.settings import Settings

ADDRESS_SPACE = 8 << 30
"""A handler that asks for more fails here instead of taking the machine's memory."""


def peak_bytes() -> int:
    """The most resident memory since the mark was last reset."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    settings = Settings.from_env()
    for line in sys.stdin:
        source = line.rstrip("\n")
        Path("/proc/self/clear_refs").write_text("5")
        before, began = peak_bytes(), time.process_time()
        succeeded, answer = run_one(settings, "validate_raster", {"source_url": source}, None)
        error = answer.get("error") if not succeeded else None
        print(
            json.dumps(
                {
                    "source": source,
                    "code": error["code"] if error else None,
                    "type": error["type"] if error else None,
                    "message": error["message"] if error else None,
                    "retryable": error["retryable"] if error else None,
                    "grown": peak_bytes() - before,
                    "cpu_seconds": time.process_time() - began,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
