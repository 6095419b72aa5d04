"""What the kinds of remote files have in common: they are opened at a byte and give pieces from there on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from core.errors import TransientError
from core.storage import StorageRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An open answer. ``in_part``: the server gave the part that was asked for, not the whole.

    ``start`` is the byte that ``chunks`` begin at: 0 when the file is no longer the version that was asked for, or when
    its server cannot begin elsewhere. ``md5`` is of the whole file, as its server knows it.
    """

    start: int
    size: int | None
    version: str | None
    md5: bytes | None
    in_part: bool
    chunks: Iterator[bytes] = field(repr=False)


class RemoteFile(Protocol):
    """A file on another machine."""

    @property
    def name(self) -> str:
        """Its file name."""
        ...

    @property
    def shown(self) -> str:
        """Its address without secrets."""
        ...

    def open(self, start: int, version: str | None, *, length: int | None = None) -> AbstractContextManager[Piece]:
        """Open it at ``start``, to the end or for ``length`` bytes, if it still is ``version``.

        Raises:
            StorageRefused: when it may not be read or is not there.
            TransientError: when it cannot be read now; reading ``chunks`` raises it as well.
        """
        ...


class Truncated(TransientError):
    """The other side ended early, or was too slow."""


def refused(field_name: str, message: str, code: str) -> StorageRefused:
    """An error about the parameter ``field_name``."""
    return StorageRefused(f"{field_name}: {message}", code=code)


def file_name(path: str) -> str:
    """The last part of a URL's decoded path or of a blob's name, safe as a file name."""
    name = PurePosixPath(path.replace("\\", "/")).name.replace("\0", "")
    if name in {"", ".", ".."}:
        return "raster"
    if len(name.encode()) > 200:
        suffix = PurePosixPath(name).suffix[:10]
        name = hashlib.sha256(name.encode()).hexdigest()[:16] + suffix
    return name
