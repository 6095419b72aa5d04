"""Azure Blob Storage: blobs as sources, and containers as destinations.

A worker signs in by itself, with an Entra identity or with the account's key, and no signature is ever made or kept. An
upload is staged in blocks and appears when they are committed, whole or not at all; blocks that an earlier attempt
staged are not sent again.
Source: https://learn.microsoft.com/rest/api/storageservices/put-block-list
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from core.errors import TransientError
from core.storage import FetchWatch
from infrastructure.storage.remote import Piece, Truncated, file_name, refused

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobServiceClient

SCHEME = "az"
BLOCK_BYTES = 8 << 20
_MAX_BLOCKS = 50_000
_LANES = 4
_KNOWN_BUT_NOT_FOR_ALL = frozenset({"AuthorizationPermissionMismatch", "AuthorizationFailure"})
_HASH_METADATA = "sha256"


class BlobAccount:
    """One storage account. Connects when first used.

    Args:
        url: ``https://<account>.blob.core.windows.net``, or an emulator's ``http://127.0.0.1:10000/<account>``.
        key: the account's key; None: ``credential``.
        credential: what azure-identity offers; None: its ``DefaultAzureCredential``, which finds managed identities.
    """

    def __init__(self, url: str, *, key: str | None = None, credential: Any = None) -> None:
        self.url = url.rstrip("/")
        self._key, self._credential = key, credential
        self._client: BlobServiceClient | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"BlobAccount({self.url!r})"

    @property
    def name(self) -> str:
        """The account's name: the first label of its host, or an emulator's first path segment."""
        parts = urlsplit(self.url)
        return parts.path.strip("/") or (parts.hostname or "").partition(".")[0]

    def owns(self, address: str) -> bool:
        """Whether ``address`` names a blob of this account."""
        if address.startswith(f"{SCHEME}://"):
            return True
        given, own = urlsplit(address), urlsplit(self.url)
        prefix = own.path.rstrip("/")
        return (given.scheme, (given.hostname or "").lower(), given.port) == (
            own.scheme,
            (own.hostname or "").lower(),
            own.port,
        ) and given.path.startswith(f"{prefix}/")

    def names(self, address: str, *, field: str) -> tuple[str, str]:
        """Container and blob (or prefix) of an address of this account.

        Raises:
            StorageRefused: SOURCE_NOT_SUPPORTED when it names no container.
        """
        if address.startswith(f"{SCHEME}://"):
            path = address.removeprefix(f"{SCHEME}://")
        else:
            path = unquote(urlsplit(address).path.removeprefix(urlsplit(self.url).path.rstrip("/")).lstrip("/"))
        container, _, blob = path.partition("/")
        if not container or any(part in {".", ".."} for part in blob.split("/")):
            raise refused(
                field, f"{address.partition('?')[0]} names no container and blob of {self.url}", "SOURCE_NOT_SUPPORTED"
            )
        return container, blob.strip("/")

    def address(self, container: str, blob: str) -> str:
        """The URL of a blob, without any signature."""
        return f"{self.url}/{container}/{quote(blob)}"

    def blob(self, container: str, blob: str) -> BlobClient:
        """A client of one blob."""
        with self._lock:
            if self._client is None:
                self._client = self._connected()
            return self._client.get_blob_client(container, blob)

    def check(self) -> str:
        """Ask the service something small; how this worker signs in. A role on single containers passes.

        Raises:
            StorageRefused: when it may not.
            TransientError: when the service cannot be reached.
        """
        from azure.core.exceptions import HttpResponseError

        with translated("BLOB_ACCOUNT_URL", self.url):
            with self._lock:
                if self._client is None:
                    self._client = self._connected()
            try:
                next(iter(self._client.list_containers(results_per_page=1)), None)
            except HttpResponseError as error:
                if self._key is None and _code(error) in _KNOWN_BUT_NOT_FOR_ALL:
                    return "Entra identity, with roles on single containers at most"
                raise
        return "account key" if self._key is not None else "Entra identity"

    def _connected(self) -> BlobServiceClient:
        from azure.storage.blob import BlobServiceClient

        credential = self._credential
        if self._key is not None:
            credential = {"account_name": self.name, "account_key": self._key}
        elif credential is None:
            from azure.identity import DefaultAzureCredential

            credential = DefaultAzureCredential()
        return BlobServiceClient(
            self.url,
            credential=credential,
            max_single_get_size=BLOCK_BYTES,
            max_chunk_get_size=BLOCK_BYTES,
            max_single_put_size=BLOCK_BYTES,
            connection_timeout=10,
            read_timeout=60,
            retry_total=2,
            initial_backoff=0.5,
            increment_base=2,
            random_jitter_range=0.5,
            logging_enable=False,
        )

    def close(self) -> None:
        """Close connections. Idempotent."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


class BlobFile:
    """One blob as a :class:`~infrastructure.storage.remote.RemoteFile`."""

    def __init__(self, account: BlobAccount, container: str, blob: str, *, field: str) -> None:
        if not blob:
            raise refused(field, f"names the container {container}, but no blob in it", "SOURCE_NOT_SUPPORTED")
        self._account, self._container, self._blob, self._field = account, container, blob, field
        self.name = file_name(blob)
        self.shown = account.address(container, blob)

    @contextmanager
    def open(self, start: int, version: str | None, *, length: int | None = None) -> Iterator[Piece]:
        """See :class:`~infrastructure.storage.remote.RemoteFile`."""
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError

        client = self._account.blob(self._container, self._blob)
        condition: dict[str, Any] = (
            {} if version is None else {"etag": version, "match_condition": MatchConditions.IfNotModified}
        )
        with translated(self._field, self.shown):
            try:
                stream = client.download_blob(*_span(start, length), **condition)
            except HttpResponseError as error:
                if error.status_code not in {412, 416}:
                    raise
                start = 0
                stream = client.download_blob(*_span(0, length))
            properties = stream.properties
            md5 = properties.content_settings.content_md5
            total = int(properties.size)
            if start or length is not None:  # a part's own size; the whole's is in its range
                total = int(str(properties.content_range).rpartition("/")[2]) if properties.content_range else total
            yield Piece(
                start=start,
                size=total,
                version=str(properties.etag),
                md5=bytes(md5) if md5 else None,
                in_part=True,
                chunks=self._chunks(stream.chunks()),
            )

    def _chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        with translated(self._field, self.shown):
            yield from chunks


def _span(start: int, length: int | None) -> tuple[int | None, int | None]:
    """Offset and length as the SDK wants them: a whole file has neither, or an empty one would be refused."""
    return (None, None) if start == 0 and length is None else (start, length)


class BlobDestination:
    """A prefix in a container."""

    def __init__(self, account: BlobAccount, container: str, prefix: str, *, field: str) -> None:
        self._account, self._container, self._prefix, self._field = account, container, prefix.strip("/"), field

    @property
    def address(self) -> str:
        """See :class:`~core.storage.Destination`."""
        return self._account.address(self._container, self._prefix).rstrip("/")

    def address_of(self, name: str) -> str:
        """See :class:`~core.storage.Destination`."""
        return self._account.address(self._container, self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def put(self, file: Path, name: str, *, content_type: str, sha256: str, watch: FetchWatch | None = None) -> None:
        """See :class:`~core.storage.Destination`."""
        client = self._account.blob(self._container, self._key(name))
        size = file.stat().st_size
        with translated(self._field, self.address_of(name), code="OUTPUT_NOT_WRITABLE"):
            if _holds(client, size, sha256):
                return
            upload = _Upload(client, file, size=size, sha256=sha256, watch=watch)
            upload.run(content_type)
            if not _holds(client, size, sha256):
                raise TransientError(f"{self._field}: {self.address_of(name)} was changed by somebody else meanwhile")


class _Upload:
    """One file's blocks. Their ids hold the file's checksum and the size of blocks: one that is there is right."""

    def __init__(self, client: BlobClient, file: Path, *, size: int, sha256: str, watch: FetchWatch | None) -> None:
        self._client, self._file, self._size, self._sha256, self._watch = client, file, size, sha256, watch
        self._block = max(BLOCK_BYTES, -(-size // _MAX_BLOCKS))

    def run(self, content_type: str) -> None:
        from azure.storage.blob import BlobBlock

        staged = self._staged()
        md5 = hashlib.md5(usedforsecurity=False)
        waiting: deque[Future[None]] = deque()
        ids: list[str] = []

        def report() -> None:
            if self._watch is not None:
                self._watch(min(self._size, (len(ids) - len(waiting)) * self._block), self._size)

        with self._file.open("rb") as file, ThreadPoolExecutor(_LANES, "geoworker-upload") as lanes:
            try:
                while data := file.read(self._block):
                    md5.update(data)
                    identity = self._identity(len(ids))
                    ids.append(identity)
                    if staged.get(identity) != len(data):
                        waiting.append(lanes.submit(self._stage, identity, data))
                    while len(waiting) >= _LANES:
                        waiting.popleft().result()
                    report()
                while waiting:
                    waiting.popleft().result()
                    report()
            except BaseException:
                lanes.shutdown(wait=True, cancel_futures=True)
                raise
        self._client.commit_block_list(
            [BlobBlock(identity) for identity in ids],
            content_settings=_settings(content_type, md5.digest()),
            metadata={_HASH_METADATA: self._sha256},
        )

    def _identity(self, number: int) -> str:
        return f"{self._sha256[:24]}-{self._block:010d}-{number:05d}"

    def _stage(self, identity: str, data: bytes) -> None:
        self._client.stage_block(identity, data, length=len(data), validate_content=True)

    def _staged(self) -> dict[str, int]:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            _, uncommitted = self._client.get_block_list("uncommitted")
        except ResourceNotFoundError:
            return {}
        return {str(block.id): int(block.size) for block in uncommitted}


def _settings(content_type: str, md5: bytes) -> Any:
    from azure.storage.blob import ContentSettings

    return ContentSettings(content_type=content_type, content_md5=bytearray(md5))


def _holds(client: BlobClient, size: int, sha256: str) -> bool:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        properties = client.get_blob_properties()
    except ResourceNotFoundError:
        return False
    return properties.size == size and (properties.metadata or {}).get(_HASH_METADATA) == sha256


@contextmanager
def translated(field: str, shown: str, *, code: str = "FILE_NOT_READABLE") -> Iterator[None]:
    """Azure's exceptions as this project's, with nothing of their text that could hold a signature.

    ``code`` is the refusal's when the service does not let this worker in.
    """
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

    try:
        yield
    except ResourceNotFoundError as error:
        what = "its container is not there" if _code(error) == "ContainerNotFound" else "is not there"
        absent = "FILE_NOT_FOUND" if code == "FILE_NOT_READABLE" else code
        raise refused(field, f"{shown}: {what}", absent) from None
    except ClientAuthenticationError as error:
        if error.status_code is None:  # the identity itself cannot be had: not yet, or not on this machine
            raise TransientError(f"{field}: no Entra token for {shown}: {type(error).__name__}") from None
        raise refused(field, f"{shown} may not be used by this worker ({_code(error)})", code) from None
    except HttpResponseError as error:
        status = error.status_code
        if status in {401, 403}:
            raise refused(field, f"{shown} may not be used by this worker ({_code(error)})", code) from None
        if status is None or _code(error) == "InvalidBlockList" or status in {408, 409, 412, 429} or status >= 500:
            raise TransientError(f"{field}: {shown}: Blob Storage answered {status} ({_code(error)})") from None
        raise refused(field, f"{shown}: Blob Storage answered {status} ({_code(error)})", code) from None
    except AzureError as error:
        raise Truncated(f"{field}: {shown}: no answer from Blob Storage: {type(error).__name__}") from None


def _code(error: Any) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or type(error).__name__)
