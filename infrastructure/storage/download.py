"""Copying a remote file here: in pieces, going on where it was cut off, within a size, a disk and a least speed."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import TransientError
from core.storage import Fetched, FetchWatch
from infrastructure.storage.remote import Piece, RemoteFile, Truncated, refused

MIB = 1 << 20
_MAX_RESTARTS = 2
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """What a copy may take.

    Args:
        max_bytes: the largest file.
        min_free_bytes: disk space that must be left.
        min_rate: bytes a second below which, over ``patience`` seconds, the other side counts as gone.
        patience: see there.
        tries: how often in a row it may break off without a byte of progress.
        pause: waits that many seconds (tests replace it).
    """

    max_bytes: int = 100 * 1024 * MIB
    min_free_bytes: int = 512 * MIB
    min_rate: float = 1024.0
    patience: float = 60.0
    tries: int = 4
    pause: Callable[[float], None] = time.sleep


class Download:
    """One file's copy in ``into``: ``data`` when whole, ``data.part`` and ``state.json`` until then."""

    def __init__(
        self, remote: RemoteFile, into: Path, limits: DownloadLimits, *, field: str, watch: FetchWatch
    ) -> None:
        self._remote, self._limits, self._field, self._watch = remote, limits, field, watch
        self._data, self._part, self._state = into / "data", into / "data.part", into / "state.json"
        self._version: str | None = None
        self._digest, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._done, self._restarts = 0, 0
        self._window = (time.monotonic(), 0)

    def run(self) -> Fetched:
        """The whole copy; one that is there is not made again.

        Raises:
            StorageRefused: when the file may not be read, is not there or is too large.
            TransientError: when it could not be had now; what there is of it is kept.
        """
        state = self._saved()
        if self._data.exists() and state.get("sha256"):
            return self._fetched(state["sha256"], self._data.stat().st_size, state.get("version"))
        failures = 0
        self._window = (time.monotonic(), 0)
        with self._opened_part(state) as file:
            while not self._done or self._done != state.get("size"):
                before = self._done
                try:
                    with self._remote.open(self._done, self._version) as piece:
                        self._take(piece, file)
                    break
                except Truncated:
                    failures = 1 if self._done > before else failures + 1
                    if failures >= self._limits.tries:
                        raise
                    self._watch(self._done, None)
                    self._limits.pause(min(8.0, 0.25 * 2**failures))
        sha256 = self._digest.hexdigest()
        self._part.replace(self._data)
        self._save({"version": self._version, "sha256": sha256})
        return self._fetched(sha256, self._done, self._version)

    def _fetched(self, sha256: str, size: int, version: str | None) -> Fetched:
        return Fetched(
            path=self._data,
            name=self._remote.name,
            size=size,
            sha256=sha256,
            version=version,
            shown=self._remote.shown,
        )

    def _opened_part(self, state: dict[str, Any]) -> BinaryIO:
        self._version = state.get("version")
        file = self._part.open("a+b")
        if self._version is None:
            file.truncate(0)
        else:
            file.seek(0)
            while chunk := file.read(4 * MIB):
                self._count(chunk)
        return file

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._md5.update(chunk)
        self._done += len(chunk)

    def _forget(self, file: BinaryIO) -> None:
        file.truncate(0)
        self._digest, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._window = (time.monotonic(), 0)
        self._done, self._version = 0, None

    def _start_over(self, file: BinaryIO) -> None:
        self._restarts += 1 if self._done else 0
        self._forget(file)
        if self._restarts > _MAX_RESTARTS:
            raise TransientError(f"{self._field}: {self._remote.shown} changes again and again while it is copied")

    def _take(self, piece: Piece, file: BinaryIO) -> None:
        if piece.start != self._done or (self._done and piece.version != self._version):
            self._start_over(file)
            if piece.start:
                raise Truncated(f"{self._field}: {self._remote.shown} changed while it was copied")
        if piece.version != self._version or not self._state.exists():
            self._version = piece.version
            self._save({"version": piece.version, "size": piece.size})
        self._refuse_size(piece.size or 0)
        self._refuse_full(piece.size or 0)
        self._copy(piece, file)
        file.flush()
        if piece.size is not None and self._done < piece.size:
            raise Truncated(f"{self._field}: {self._remote.shown} ended after {self._done} of {piece.size} bytes")
        if piece.md5 is not None and self._md5.digest() != piece.md5:
            self._forget(file)
            raise Truncated(f"{self._field}: {self._remote.shown} did not arrive as its checksum says")

    def _copy(self, piece: Piece, file: BinaryIO) -> None:
        try:
            for chunk in piece.chunks:
                file.write(chunk)
                self._count(chunk)
                self._refuse_size(self._done)
                self._watch(self._done, piece.size)
                self._refuse_slow()
        except OSError as error:
            if error.errno in _FULL:
                raise TransientError(f"no space left to copy {self._remote.shown}") from error
            raise

    def _refuse_slow(self) -> None:
        began, counted = self._window
        elapsed = time.monotonic() - began
        if elapsed < self._limits.patience:
            return
        if self._done - counted < self._limits.min_rate * elapsed:
            raise TransientError(
                f"{self._field}: {self._remote.shown} comes at less than {self._limits.min_rate:.0f} bytes a second"
            )
        self._window = (time.monotonic(), self._done)
        self._refuse_full(0)

    def _refuse_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise refused(
                self._field,
                f"{self._remote.shown} has {size} bytes or more; {self._limits.max_bytes} are allowed (SOURCE_MAX_MB)",
                "SOURCE_TOO_LARGE",
            )

    def _refuse_full(self, size: int) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if free < max(0, size - self._done) + self._limits.min_free_bytes:
            raise TransientError(
                f"no space left to copy {self._remote.shown}: {size // MIB} MiB to have, {free // MIB} MiB free"
            )

    def _saved(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _save(self, state: dict[str, Any]) -> None:
        part = self._state.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.replace(self._state)
