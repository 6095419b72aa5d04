"""Which addresses may be called: the allow-list, and what a host's name resolves to."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from infrastructure.outbound import AddressRefused, OutboundPolicy

HOSTS = ("hooks.example.org", "*.example.net", "127.0.0.1", "[::1]", "localhost")


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/x",
        "https://HOOKS.example.org./x?sig=1",
        "https://a.b.example.net:8443/",
    ],
)
def test_allowed_hosts_pass(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "93.184.215.14")
    assert OutboundPolicy(allowed_hosts=HOSTS).resolve(url, field="callback_url") == "93.184.215.14"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://example.net/", "allow-list"),
        ("https://hooks.example.org.evil.com/", "allow-list"),
        ("https://evil.com/hooks.example.org", "allow-list"),
        ("https://evil.com#hooks.example.org", "allow-list"),
        ("https://hooks.example.org@evil.com/", "credentials"),
        ("https://user:secret@hooks.example.org/", "credentials"),
        ("http://hooks.example.org/", "https"),
        ("ftp://hooks.example.org/", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("https:///x", "http or https"),
        ("https://hooks.example.org:0/", "http or https"),
        ("https://hooks.example.org:99999/", "no URL"),
        ("not a url", "http or https"),
        ("", "http or https"),
    ],
)
def test_other_urls_are_refused_and_the_field_is_named(url: str, text: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        OutboundPolicy(allowed_hosts=HOSTS).check(url, field="callback_url")
    assert [fault.field for fault in caught.value.faults] == ["callback_url"]
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


PRIVATE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "::1", "fc00::1", "224.0.0.1"]
METADATA = ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "100.100.100.200", "fe80::1"]
CARRIED = ["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]


@pytest.mark.parametrize("address", [*PRIVATE, *METADATA, *CARRIED])
def test_an_allowed_name_that_resolves_to_a_private_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, address)
    with pytest.raises(AddressRefused):
        OutboundPolicy(allowed_hosts=HOSTS).resolve("https://hooks.example.org/", field="callback_url")


@pytest.mark.parametrize("address", METADATA + CARRIED[-2:])
def test_metadata_addresses_stay_closed_when_private_ones_are_allowed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, address)
    policy = OutboundPolicy(allowed_hosts=HOSTS, allow_private=True)
    with pytest.raises(AddressRefused):
        policy.resolve("https://hooks.example.org/", field="callback_url")
    resolving(monkeypatch, address, "10.1.2.3")
    assert policy.resolve("https://hooks.example.org/", field="callback_url") == "10.1.2.3"
