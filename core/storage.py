"""What handlers ask of storage: files that they may read, and places where their outputs may go.

A process offers a :class:`Storage` to its handlers as ``context.services["storage"]``; without one they have
:class:`LocalFiles`, which knows the disk alone. Addresses are plain paths, ``https://…`` URLs and ``az://container/blob``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from core.docker_context import DockerTaskContext
from core.errors import GeoworkerError, PermanentError

FetchWatch = Callable[[int, int | None], None]
"""Told the bytes had and the bytes in all, if known, after each piece; what it raises ends the transfer."""


class StorageRefused(PermanentError):
    """A place that may not be read or written, or that can never give what was asked; ``code`` says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A whole copy of a remote file on this machine.

    ``version`` is the remote's own name for what was copied (an ETag), ``shown`` its address without secrets.
    """

    path: Path
    name: str
    size: int
    sha256: str
    version: str | None
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReader:
    """A remote file that is read piece by piece, while it stays the same ``version``.

    Args:
        open: a new file object on it, which seeks. Its reads raise nothing and are short after a failure.
        failure: the error of the first read that failed; None while all went well.
        name: its file name.
        size: in bytes.
        version: the remote's own name for what is read (an ETag).
        shown: its address without secrets.
    """

    open: Callable[[], BinaryIO]
    failure: Callable[[], GeoworkerError | None]
    name: str
    size: int
    version: str
    shown: str


class Destination(Protocol):
    """A place that is no directory of this machine. A file appears there under its name whole or not at all."""

    @property
    def address(self) -> str:
        """The place's own address, without secrets."""
        ...

    def address_of(self, name: str) -> str:
        """The address of the file ``name`` (which may hold ``/``) in this place."""
        ...

    def put(self, file: Path, name: str, *, content_type: str, sha256: str, watch: FetchWatch | None = None) -> None:
        """Send ``file``; nothing is sent again when what is there already has this size and checksum.

        Raises:
            StorageRefused: when it may not be written.
            TransientError: when it cannot be written now.
        """
        ...


class Storage(Protocol):
    """Where handlers may read and write. ``field`` names the parameter that errors are about."""

    def readable(self, path: Path, *, field: str) -> Path:
        """``path`` with every symbolic link followed, when it lies where sources may be read.

        Raises:
            StorageRefused: SOURCE_NOT_ALLOWED.
        """
        ...

    def listed(self, path: Path) -> bool:
        """Whether ``path`` lies below a directory that the settings name, rather than merely not being forbidden."""
        ...

    def is_remote(self, address: str) -> bool:
        """Whether ``address`` is read by :meth:`fetch` and not as a path."""
        ...

    def fetch(self, address: str, into: Path, *, field: str, watch: FetchWatch) -> Fetched:
        """Copy a remote file into the directory ``into``, going on where an earlier call was cut off.

        Raises:
            StorageRefused: when it may not be read, is not there or is too large.
            TransientError: when it cannot be read now.
        """
        ...

    def open(self, address: str, *, field: str) -> RemoteReader:
        """A remote file to be read in pieces.

        Raises:
            StorageRefused: as :meth:`fetch`; SOURCE_NOT_SEEKABLE when its server gives no pieces.
            TransientError: when it cannot be read now.
        """
        ...

    def writable(self, path: Path, *, field: str) -> Path:
        """``path`` made absolute, links followed, when it lies where outputs may be written.

        Raises:
            StorageRefused: OUTPUT_NOT_ALLOWED.
        """
        ...

    def destination(self, address: str, *, field: str) -> Destination:
        """The remote place that ``address`` names.

        Raises:
            StorageRefused: OUTPUT_NOT_ALLOWED.
        """
        ...


class LocalFiles:
    """The disk of this machine, whole or in part; no remote file at all.

    Args:
        roots: directories below which sources may be read; None: anywhere.
        output_roots: directories below which outputs may be written; None: anywhere.
    """

    def __init__(self, roots: Sequence[Path] | None = None, output_roots: Sequence[Path] | None = None) -> None:
        self._roots = _resolved(roots)
        self._output_roots = _resolved(output_roots)

    def readable(self, path: Path, *, field: str) -> Path:
        """See :meth:`Storage.readable`."""
        resolved = _follow(path)
        if self._roots is not None and not _below(resolved, self._roots):
            raise StorageRefused(
                f"{field}: {path} lies outside the directories that may be read ({_names(self._roots)}); "
                "SOURCE_ALLOWED_ROOTS says which",
                code="SOURCE_NOT_ALLOWED",
            )
        return resolved

    def listed(self, path: Path) -> bool:
        """See :meth:`Storage.listed`."""
        return self._roots is not None and _below(_follow(path), self._roots)

    def is_remote(self, address: str) -> bool:
        """Whether ``address`` is a URL, but no file's."""
        return "://" in address and not address.startswith("file://")

    def fetch(self, address: str, into: Path, *, field: str, watch: FetchWatch) -> Fetched:  # noqa: ARG002 - the port's
        """Refuses: this machine's disk is all there is."""
        raise _not_here(address, field)

    def open(self, address: str, *, field: str) -> RemoteReader:
        """Refuses: this machine's disk is all there is."""
        raise _not_here(address, field)

    def writable(self, path: Path, *, field: str) -> Path:
        """See :meth:`Storage.writable`."""
        resolved = _follow(path)
        if self._output_roots is not None and not _below(resolved, self._output_roots):
            raise StorageRefused(
                f"{field}: {path} lies outside the directories that may be written ({_names(self._output_roots)}); "
                "OUTPUT_ALLOWED_ROOTS says which",
                code="OUTPUT_NOT_ALLOWED",
            )
        return resolved

    def destination(self, address: str, *, field: str) -> Destination:
        """Refuses: this machine's disk is all there is."""
        raise StorageRefused(
            f"{field}: {address.partition('://')[0]}:// destinations are not set up in this worker; give a directory",
            code="OUTPUT_NOT_ALLOWED",
        )


def storage_of(context: DockerTaskContext) -> Storage:
    """The storage that this process offers to its handlers."""
    storage: Storage | None = context.services.get("storage")
    return LocalFiles() if storage is None else storage


def _not_here(address: str, field: str) -> StorageRefused:
    scheme = address.partition("://")[0]
    return StorageRefused(
        f"{field}: {scheme}:// sources are not read by this worker; give the path of a mounted file",
        code="SOURCE_NOT_SUPPORTED",
        details={"scheme": scheme},
    )


def _follow(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except OSError:  # a loop of links, a name too long: whoever opens it says so
        return path.absolute()


def _resolved(roots: Sequence[Path] | None) -> tuple[Path, ...] | None:
    return None if roots is None else tuple(_follow(root) for root in roots)


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _names(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots) or "none"
