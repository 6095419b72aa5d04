"""Azurite, Microsoft's emulator of Blob Storage, on loopback."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infrastructure.storage.handler_storage import StorageSpec

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every Azurite has. Source: https://learn.microsoft.com/azure/storage/common/storage-use-azurite"""

_INSTALLED = Path(__file__).parent / "tools" / "node_modules" / ".bin" / "azurite-blob"
_LISTENING = re.compile(r"successfully listen(?:s on|ing at) (https?://\S+)")
_START_SECONDS = 60


@dataclass(frozen=True)
class Azurite:
    """A running emulator."""

    url: str

    @property
    def account_url(self) -> str:
        return f"{self.url}/{ACCOUNT}"

    @property
    def spec(self) -> StorageSpec:
        return StorageSpec(blob_account_url=self.account_url, blob_account_key=KEY, allow_private=True, min_free_mb=1)


def program() -> str:
    """Azurite's path. Skips the test where it is not installed; fails it in CI."""
    found = str(_INSTALLED) if _INSTALLED.exists() else shutil.which("azurite-blob")
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail("Azurite is not installed: run `make tools`")
    pytest.skip("Azurite is not installed: run `make tools` (needs npm)")


@contextmanager
def azurite(directory: Path, options: Sequence[str] = (), *, host: str = "127.0.0.1") -> Iterator[Azurite]:
    """Start it, wait until it listens, and end it."""
    command = [
        program(),
        "--blobHost",
        host,
        "--blobPort",
        "0",
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--skipApiVersionCheck",
        *options,
    ]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    said = []
    try:
        while True:
            line = lines.get(timeout=_START_SECONDS)
            said.append(line)
            if line == "":
                pytest.fail(f"Azurite did not start: {''.join(said)}")
            if (listening := _LISTENING.search(line)) is not None:
                yield Azurite(listening[1])
                break
    finally:
        process.terminate()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
