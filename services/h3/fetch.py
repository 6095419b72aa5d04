"""Fetching an area by URL. Users name the address, so only public ones are called, without redirects.

Source: OWASP Server-Side Request Forgery Prevention Cheat Sheet (the resolved address is judged, then used).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from core.errors import PermanentError, TransientError

MAX_BYTES = 256 * 1024 * 1024
_TIMEOUT_SECONDS = 60.0

FETCH = "h3_fetch"
"""Under this name ``context.services`` may offer another :data:`Fetch`."""

Fetch = Callable[[str], bytes]
"""Gives the content behind a URL."""


def fetch(url: str, *, allow_private: bool = False) -> bytes:
    """The content behind an http(s) URL, at most 256 MiB.

    Raises:
        PermanentError: URL_REFUSED, URL_UNREADABLE or URL_TOO_LARGE.
        TransientError: when it cannot be fetched now.
    """
    import httpx

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise PermanentError("area: must be an http or https URL with a host and no credentials", code="URL_REFUSED")
    address = _address(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), private=allow_private)
    target = httpx.URL(url).copy_with(host=address)
    named: dict[str, Any] = {"headers": {"Host": parts.netloc}, "extensions": {"sni_hostname": parts.hostname}}
    try:
        with httpx.Client(timeout=_TIMEOUT_SECONDS) as client, client.stream("GET", target, **named) as response:
            return _content(response.status_code, parts.hostname, response.iter_bytes())
    except httpx.HTTPError as error:
        raise TransientError(f"area: {parts.hostname} cannot be fetched: {type(error).__name__}") from error


def _address(host: str, port: int, *, private: bool) -> str:
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise TransientError(f"area: the host {host} cannot be resolved") from error
    for address in found:
        parsed = ipaddress.ip_address(address.partition("%")[0])
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        if private or (parsed.is_global and not parsed.is_multicast):
            return address
    raise PermanentError(f"area: the host {host} has private or reserved addresses only", code="URL_REFUSED")


def _content(status: int, host: str, chunks: Iterable[bytes]) -> bytes:
    if status >= 500 or status == 429:
        raise TransientError(f"area: {host} answered {status}")
    if status != 200:
        raise PermanentError(f"area: {host} answered {status}", code="URL_UNREADABLE", details={"status": status})
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > MAX_BYTES:
            raise PermanentError(f"area: the download is larger than {MAX_BYTES} bytes", code="URL_TOO_LARGE")
    return bytes(content)
