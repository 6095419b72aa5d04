"""Addresses that come from outside are checked before anything is sent there.

Source: OWASP Server-Side Request Forgery Prevention Cheat Sheet (allow-list of hosts, no redirects, and the resolved
address, not just the name, is judged and then used).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

from core.errors import Fault, InvalidInput

# Where clouds answer for the machine itself: instance metadata (link-local), Azure's WireServer, AWS's IPv6, Alibaba.
_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in ("169.254.0.0/16", "fe80::/10", "168.63.129.16/32", "fd00:ec2::254/128", "100.100.100.200/32")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(InvalidInput):
    """The address may not be called."""

    def __init__(self, field: str, message: str, given: str) -> None:
        super().__init__("address", [Fault(field, message, given)])


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundPolicy:
    """Which hosts may be called. ``*.example.org`` matches its subdomains.

    ``allow_private`` opens private and loopback addresses; a cloud's metadata addresses stay closed.
    """

    allowed_hosts: Sequence[str]
    allow_private: bool = False

    def check(self, url: str, *, field: str) -> SplitResult:
        """The parts of ``url`` when its form and its host are allowed. Resolves nothing.

        Raises:
            AddressRefused: naming the field and what is allowed.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise AddressRefused(field, f"is no URL: {error}", url) from error
        shown = f"{parts.scheme}://{parts.hostname}"
        if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
            raise AddressRefused(field, "must be an http or https URL with a host", shown)
        if parts.username is not None or parts.password is not None:
            raise AddressRefused(field, "must not carry credentials", shown)
        if parts.scheme == "http" and not self.allow_private:
            raise AddressRefused(field, "must use https", shown)
        host = parts.hostname.lower().rstrip(".")
        if not any(fnmatchcase(host, pattern.lower()) for pattern in self.allowed_hosts):
            allowed = ", ".join(self.allowed_hosts) or "none"
            raise AddressRefused(field, f"its host is not on the allow-list ({allowed})", shown)
        return parts

    def resolve(self, url: str, *, field: str) -> str:
        """An IP address of ``url``'s host that may be called: connect to it, not to the name again.

        Raises:
            AddressRefused: when the URL is not allowed, or every address of its host is private or reserved.
            OSError: when the name cannot be resolved now.
        """
        parts = self.check(url, field=field)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            reached = _reached(address)
            if any(reached in network for network in _METADATA):
                continue
            if self.allow_private or (reached.is_global and not reached.is_multicast):
                return address
        raise AddressRefused(field, "its host has private, reserved or metadata addresses only", f"{parts.hostname}")


def _reached(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that is reached in the end: IPv6 may carry an IPv4 address (mapped, NAT64, 6to4, Teredo)."""
    parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    if parsed in _NAT64:
        return ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    carried = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo is not None else None)
    return carried or parsed
