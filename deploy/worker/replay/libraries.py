"""Which of the system's libraries the wheels want: the replay's root has all of this machine's, the image has few."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

OF_THE_BASE = frozenset(
    {
        *("ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2"),
        *("librt.so.1", "libutil.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"),
    }
)
"""In every Debian base image: glibc, and what apt itself is linked with."""

INSTALLED = frozenset({"libexpat.so.1"})
"""What the Dockerfile installs for the wheels."""

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")


def wanted(folder: Path) -> frozenset[str]:
    """Libraries that shared objects below ``folder`` need and that do not come with the wheels."""
    objects = [path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    brought = {path.name for path in folder.rglob("*.so*")}
    return frozenset(name for path in objects for name in _needed(path) if name not in brought)


def _needed(path: Path) -> Iterator[str]:
    ended = subprocess.run(["readelf", "--dynamic", "--wide", str(path)], capture_output=True, text=True, check=False)
    yield from _NEEDED.findall(ended.stdout)
