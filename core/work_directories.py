"""How the directory of a task's work files is named after the task."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 200  # characters; file systems take 255
_NAME = re.compile(r"(?:[a-z0-9]|_[0-9a-f]{2})+")
_ESCAPE = re.compile(r"_([0-9a-f]{2})")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")


def task_directory(task_id: str) -> str:
    """A directory name for a task: its own on every file system, also where upper and lower case are the same.

    Lower-case letters and digits stand for themselves, every other byte is ``_`` and its two hex digits. What would
    be too long is ``__`` and a digest, from which :func:`task_of_directory` does not find back.
    """
    raw = task_id.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if byte in _PLAIN else f"_{byte:02x}" for byte in raw)
    return name if 0 < len(name) <= _LONGEST else f"__{hashlib.sha256(raw).hexdigest()[:40]}"


def task_of_directory(name: str) -> str | None:
    """The id of the task whose directory has that name; None when it cannot be told."""
    if _NAME.fullmatch(name) is None:
        return None
    raw = _ESCAPE.sub(lambda found: chr(int(found.group(1), 16)), name).encode("latin-1")
    try:
        task_id = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return task_id if task_directory(task_id) == name else None
