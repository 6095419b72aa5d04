"""The storage that handlers are offered: what the settings open, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from typing import BinaryIO as Binary
from urllib.parse import urlsplit

from core.storage import Destination, Fetched, FetchWatch, LocalFiles, RemoteReader
from infrastructure.outbound import OutboundPolicy
from infrastructure.storage.blob import SCHEME, BlobAccount, BlobDestination, BlobFile
from infrastructure.storage.download import Download, DownloadLimits
from infrastructure.storage.http_file import HttpFile, http_client
from infrastructure.storage.range_file import RangeFile, RemoteBlocks
from infrastructure.storage.remote import RemoteFile, refused
from infrastructure.storage.signatures import Signatures

if TYPE_CHECKING:
    import httpx

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSpec:
    """What the settings say of storage; JSON-ready, so that it can travel to a child process.

    Args:
        source_roots: directories that sources may be read from; None: any.
        output_roots: directories that outputs may be written to; None: any.
        allowed_hosts: hosts that files may be had from by HTTP.
        allow_private: whether those may have private addresses, and be spoken to without TLS.
        ca_bundle: certificates to trust beside the usual ones.
        max_source_mb: the largest file that is copied here.
        min_free_mb: disk space that copies must leave.
        blob_account_url: the account of Blob Storage; None: there is none.
        blob_account_key: its key; None: an Entra identity.
        sas_urls: signed URLs of containers and blobs, whose hosts need not be in ``allowed_hosts``.
        lent_urls: signed URLs that came with one execution, whose hosts must be.
    """

    source_roots: tuple[str, ...] | None = None
    output_roots: tuple[str, ...] | None = None
    allowed_hosts: tuple[str, ...] = ()
    allow_private: bool = False
    ca_bundle: str | None = None
    max_source_mb: int = 102_400
    min_free_mb: int = 512
    blob_account_url: str | None = None
    blob_account_key: str | None = field(default=None, repr=False)
    sas_urls: tuple[str, ...] = field(default=(), repr=False)
    lent_urls: tuple[str, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form. Holds the secrets."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`as_dict`."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**given)


class HandlerStorage:
    """The :class:`~core.storage.Storage` port over local files, HTTP and one account of Blob Storage.

    Args:
        spec: what is open.
        credential: for Blob Storage, instead of ``DefaultAzureCredential``.
        limits: of downloads, instead of those that ``spec`` says.
    """

    def __init__(self, spec: StorageSpec, *, credential: Any = None, limits: DownloadLimits | None = None) -> None:
        self._files = LocalFiles(_paths(spec.source_roots), _paths(spec.output_roots))
        self._signatures = Signatures(spec.sas_urls, setting="SOURCE_SAS_URLS")
        self._lent = Signatures(spec.lent_urls, setting="source_url")
        hosts = tuple(spec.allowed_hosts)
        if spec.blob_account_url is not None:
            hosts = (*hosts, urlsplit(spec.blob_account_url).hostname or "")
        self._policy = OutboundPolicy(allowed_hosts=hosts, allow_private=spec.allow_private)
        self._own_policy = OutboundPolicy(allowed_hosts=self._signatures.hosts(), allow_private=spec.allow_private)
        self._ca_bundle = None if spec.ca_bundle is None else Path(spec.ca_bundle)
        self._limits = limits or DownloadLimits(
            max_bytes=spec.max_source_mb * MIB, min_free_bytes=spec.min_free_mb * MIB
        )
        self._account: BlobAccount | None = None
        if spec.blob_account_url is not None:
            self._account = BlobAccount(spec.blob_account_url, key=spec.blob_account_key, credential=credential)
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self.readable = self._files.readable
        self.listed = self._files.listed
        self.is_remote = self._files.is_remote
        self.writable = self._files.writable

    def fetch(self, address: str, into: Path, *, field: str, watch: FetchWatch) -> Fetched:
        """See :meth:`core.storage.Storage.fetch`."""
        return Download(self._file(address, field), into, self._limits, field=field, watch=watch).run()

    def open(self, address: str, *, field: str) -> RemoteReader:
        """See :meth:`core.storage.Storage.open`."""
        remote = self._file(address, field)
        with remote.open(0, None, length=1) as piece:
            size, version, in_part = piece.size, piece.version, piece.in_part
        if size is None or version is None or not in_part:
            raise refused(field, f"{remote.shown} cannot be read in parts", "SOURCE_NOT_SEEKABLE")
        blocks = RemoteBlocks(remote, size=size, version=version)
        return RemoteReader(
            open=lambda: cast(Binary, RangeFile(blocks)),
            failure=lambda: blocks.failure,
            name=remote.name,
            size=size,
            version=version,
            shown=remote.shown,
        )

    def destination(self, address: str, *, field: str) -> Destination:
        """See :meth:`core.storage.Storage.destination`."""
        if self._account is None or not self._account.owns(address):
            known = "no BLOB_ACCOUNT_URL is set" if self._account is None else f"it is not in {self._account.url}"
            raise refused(
                field,
                f"{address.partition('?')[0]} is no place that this worker writes to: {known}",
                "OUTPUT_NOT_ALLOWED",
            )
        container, prefix = self._account.names(address, field=field)
        return BlobDestination(self._account, container, prefix, field=field)

    def check_blob(self) -> str | None:
        """Ask Blob Storage something small: its account and how this worker signs in; None when there is none.

        Raises:
            StorageRefused: when it may not.
            TransientError: when it cannot be reached now.
        """
        if self._account is None:
            return None
        return f"{self._account.url} ({self._account.check()})"

    def close(self) -> None:
        """Close connections. Idempotent."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
        if self._account is not None:
            self._account.close()

    def _file(self, address: str, field: str) -> RemoteFile:
        container = blob = None
        if self._account is not None and self._account.owns(address):
            container, blob = self._account.names(address, field=field)
            address = self._account.address(container, blob)
        if (lent := self._lent.signed(address)) is not None:
            return HttpFile(lent, self._policy, self._http(), field=field)
        if (signed := self._signatures.signed(address)) is not None:
            return HttpFile(signed, self._own_policy, self._http(), field=field)
        if self._account is not None and container is not None and blob is not None:
            return BlobFile(self._account, container, blob, field=field)
        scheme = address.partition("://")[0].lower()
        if scheme == SCHEME:
            raise refused(field, "az:// needs BLOB_ACCOUNT_URL, which is not set", "SOURCE_NOT_SUPPORTED")
        if scheme not in {"http", "https"}:
            raise refused(
                field,
                f"{scheme}:// sources are not read by this worker; give a mounted path, an https:// URL of an allowed "
                "host or az://container/blob",
                "SOURCE_NOT_SUPPORTED",
            )
        return HttpFile(address, self._policy, self._http(), field=field)

    def _http(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = http_client(ca_bundle=self._ca_bundle)
            return self._client


def _paths(names: tuple[str, ...] | None) -> list[Path] | None:
    return None if names is None else [Path(name) for name in names]
