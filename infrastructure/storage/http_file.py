"""Files that are had by HTTP, from hosts on an allow-list.

Every address on the way, redirects included, is checked, resolved, and connected to by the IP address that was checked,
so that neither a redirect nor a second answer of the name service leads elsewhere. Resuming is that of RFC 9110: a
range with ``If-Range``.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from core.errors import TransientError
from infrastructure.outbound import AddressRefused, OutboundPolicy
from infrastructure.redaction import redact
from infrastructure.storage.remote import Piece, Truncated, file_name, refused
from infrastructure.storage.signatures import is_signed

if TYPE_CHECKING:
    import httpx

_MAX_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")
_MOVED = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABSENT = frozenset({404, 410})
_DENIED = frozenset({401, 403, 407})


def http_client(
    *, ca_bundle: Path | None = None, connect_seconds: float = 10.0, read_seconds: float = 60.0
) -> httpx.Client:
    """A client that uses no proxy, follows nothing by itself, and trusts ``ca_bundle`` beside the usual authorities."""
    import httpx

    context = ssl.create_default_context()
    if ca_bundle is not None:
        context.load_verify_locations(ca_bundle)
    timeout = httpx.Timeout(read_seconds, connect=connect_seconds)
    return httpx.Client(verify=context, timeout=timeout, follow_redirects=False, trust_env=False)


class HttpFile:
    """The file behind an https (or, when private addresses are allowed, http) URL.

    Args:
        url: where it is; a signature in it is used and never shown.
        policy: which addresses may be called.
        client: see :func:`http_client`.
        field: the parameter that errors are about.

    Raises:
        StorageRefused: SOURCE_NOT_ALLOWED.
    """

    def __init__(self, url: str, policy: OutboundPolicy, client: httpx.Client, *, field: str) -> None:
        self._url, self._policy, self._client, self._field = url, policy, client, field
        try:
            parts = policy.check(url, field=field)
        except AddressRefused as error:
            raise self._not_allowed(error) from None
        self.name = file_name(unquote(parts.path))
        shown = parts._replace(query="", fragment="") if is_signed(url) else parts._replace(fragment="")
        self.shown = redact(urlunsplit(shown))

    @contextmanager
    def open(self, start: int, version: str | None, *, length: int | None = None) -> Iterator[Piece]:
        """See :class:`~infrastructure.storage.remote.RemoteFile`."""
        import httpx

        headers = {"Accept-Encoding": "identity", "User-Agent": "geoworker"}
        if (start or length is not None) and (version is not None or start == 0):
            last = "" if length is None else str(start + length - 1)
            headers["Range"] = f"bytes={start}-{last}"
            if version is not None:
                headers["If-Range"] = version
        try:
            answer = self._answer(headers)
            try:
                yield self._piece(answer, start)
            finally:
                answer.close()
        except httpx.HTTPError as error:
            raise Truncated(f"{self._field}: {self._host} broke off: {type(error).__name__}") from error

    @property
    def _host(self) -> str:
        return urlsplit(self._url).hostname or "the host"

    def _answer(self, headers: Mapping[str, str]) -> httpx.Response:
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._send(url, headers)
            if answer.status_code in _MOVED and "location" in answer.headers:
                answer.close()
                url = urljoin(url, answer.headers["location"])
                continue
            if answer.status_code in {200, 206}:
                return answer
            answer.close()
            raise self._error(answer)
        raise refused(self._field, f"{self._host} redirects more than {_MAX_REDIRECTS} times", "SOURCE_NOT_ALLOWED")

    def _send(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        try:
            address = self._policy.resolve(url, field=self._field)
        except AddressRefused as error:
            raise self._not_allowed(error) from None
        except OSError as error:
            raise TransientError(f"{self._field}: {urlsplit(url).hostname} cannot be resolved: {error}") from error
        parts = urlsplit(url)
        request = self._client.build_request(
            "GET",
            urlunsplit(parts._replace(netloc=_netloc(address, parts.port), fragment="")),
            headers={**headers, "Host": _netloc(parts.hostname or "", parts.port)},
            extensions={"sni_hostname": parts.hostname},
        )
        return self._client.send(request, stream=True)

    def _piece(self, answer: httpx.Response, start: int) -> Piece:
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise refused(
                self._field, f"{self._host} sends the file encoded, which was not asked for", "FILE_NOT_READABLE"
            )
        size: int | None
        if answer.status_code == 206:
            matched = _CONTENT_RANGE.match(answer.headers.get("content-range", ""))
            if matched is None or int(matched[1]) != start:
                raise Truncated(f"{self._field}: {self._host} answered with another range than was asked for")
            size = None if matched[3] == "*" else int(matched[3])
        else:
            start = 0
            length = answer.headers.get("content-length")
            size = int(length) if length is not None and length.isdigit() else None
        return Piece(
            start=start,
            size=size,
            version=_validator(answer.headers),
            md5=_md5(answer.headers) if answer.status_code == 200 else None,
            in_part=answer.status_code == 206,
            chunks=answer.iter_raw(),
        )

    def _not_allowed(self, error: AddressRefused) -> Exception:
        fault = error.faults[0]
        return refused(
            self._field, f"{fault.message} (given: {fault.given}); SOURCE_ALLOWED_HOSTS", "SOURCE_NOT_ALLOWED"
        )

    def _error(self, answer: httpx.Response) -> Exception:
        status = answer.status_code
        if status in _ABSENT:
            return refused(self._field, f"{self.shown} is not there ({status})", "FILE_NOT_FOUND")
        if status in _DENIED:
            return refused(
                self._field, f"{self._host} does not let this worker read {self.shown} ({status})", "FILE_NOT_READABLE"
            )
        if status in _LATER:
            wait = answer.headers.get("retry-after", "")
            after = timedelta(seconds=min(int(wait), 3600)) if wait.isdigit() else None
            return TransientError(f"{self._field}: {self._host} answered {status}", retry_after=after)
        if status == 416:
            return Truncated(f"{self._field}: {self._host} has no such range any more")
        return refused(self._field, f"{self._host} answered {status}", "FILE_NOT_READABLE")


def _validator(headers: Mapping[str, str]) -> str | None:
    """What ``If-Range`` may carry: a strong ETag, else the time of change."""
    etag = headers.get("etag")
    if etag is not None and etag.startswith('"'):
        return etag
    return headers.get("last-modified") if etag is None else None


def _md5(headers: Mapping[str, str]) -> bytes | None:
    text = headers.get("content-md5")
    try:
        return base64.b64decode(text, validate=True) if text is not None else None
    except (binascii.Error, ValueError):
        return None


def _netloc(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
