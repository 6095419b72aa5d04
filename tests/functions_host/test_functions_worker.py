"""The packaged Function App under Microsoft's own Functions worker library (a wheel for Python 3.13 and later)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACE = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a;UseDevelopmentEmulator=true;"


@pytest.mark.skipif(
    importlib.util.find_spec("azure_functions_runtime") is None,
    reason="azure-functions-runtime is not installed (it needs Python 3.13): make functions-host",
)
@pytest.mark.timeout(180)
def test_the_functions_worker_indexes_and_calls_every_function(database_url: str, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "DOCKER_ORCHESTRATION_MODE": "service_bus",
        "SERVICE_BUS_CONNECTION_STRING": NAMESPACE,
        "CALLBACK_SECRETS": "whsec_c2VjcmV0LW9mLXNvbWUtbGVuZ3Ro",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.functions_host.drive"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    triggers = {
        name: next(one["type"] for one in bindings if one["direction"] == "IN")
        for name, bindings in found["indexed"].items()
    }
    assert triggers == {
        "http": "httpTrigger",
        "callback": "httpTrigger",
        "probe": "httpTrigger",
        "sweep": "timerTrigger",
        "jobs": "serviceBusTrigger",
        "tasks": "serviceBusTrigger",
    }
    assert (found["livez"]["status"], json.loads(found["livez"]["body"])) == (200, {"status": "alive"})
    assert found["submitted"]["status"] == 202
    assert found["unsigned"]["status"] == 401
    assert not found["refused"]["success"]
    assert "RedeliverMessage" in found["refused"]["why"]
    after = json.loads(found["after"]["body"])
    assert (after["status"], after["stage"]) == ("processing", 1)  # planned by the queue trigger
