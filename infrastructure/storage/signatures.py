"""Signed URLs (shared access signatures): held by the worker, joined to an address only when it is read.

Parameters never carry a signature, because they are stored and shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from core.errors import ConfigurationError, Fault

_SIGNATURES = frozenset({"sig", "signature", "x-amz-signature", "x-goog-signature"})


class Signatures:
    """Signed URLs, each good for its own path and for what lies below it.

    Raises:
        ConfigurationError: when one is no URL with a signature; its text is not shown.
    """

    def __init__(self, urls: Sequence[str], *, setting: str) -> None:
        self._known: list[SplitResult] = []
        for number, url in enumerate(urls, start=1):
            if not is_signed(url):
                raise ConfigurationError("storage", [Fault(setting, f"entry {number} is no URL with a signature")])
            self._known.append(urlsplit(url))

    def hosts(self) -> tuple[str, ...]:
        """The hosts that they are for."""
        return tuple({(known.hostname or "").lower() for known in self._known})

    def signed(self, address: str) -> str | None:
        """``address`` with the signature of the nearest URL at or above it; None when there is none."""
        parts = urlsplit(address)
        fitting = [known for known in self._known if _covers(known, parts)]
        if not fitting:
            return None
        nearest = max(fitting, key=lambda known: len(known.path))
        return urlunsplit(parts._replace(query=nearest.query, fragment=""))


def is_signed(url: str) -> bool:
    """Whether ``url`` is an HTTP URL with a signature in its query."""
    if not url.startswith(("https://", "http://")):
        return False
    try:
        query = urlsplit(url).query
    except ValueError:
        return False
    return any(name.lower() in _SIGNATURES for name, _ in parse_qsl(query, keep_blank_values=True))


def lifted(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """``parameters`` without the queries of signed URLs, and those URLs whole.

    For executions that store nothing: a handler's parameters are clean, and its storage is lent the signatures.
    """
    urls: list[str] = []

    def clean(value: Any) -> Any:
        if isinstance(value, str) and is_signed(value):
            urls.append(value)
            return urlunsplit(urlsplit(value)._replace(query="", fragment=""))
        if isinstance(value, Mapping):
            return {name: clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    return {name: clean(value) for name, value in parameters.items()}, tuple(urls)


def _covers(known: SplitResult, asked: SplitResult) -> bool:
    if (known.scheme, (known.hostname or "").lower(), known.port) != (
        asked.scheme,
        (asked.hostname or "").lower(),
        asked.port,
    ):
        return False
    above, path = unquote(known.path).rstrip("/"), unquote(asked.path)
    return ".." not in path.split("/") and (path == above or path.startswith(f"{above}/"))
