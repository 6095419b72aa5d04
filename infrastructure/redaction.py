"""Keeps secrets out of logs, errors and stored state."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_HIDDEN = "***"
_NAMED = (
    r"(?i)([\"']?(?:account_?key|shared_?access_?key|shared_?access_?signature|password|passwd|pwd|client_?secret"
    r"|api[-_]?key|sas_?token)[\"']?\s*[=:]\s*"
)
_PATTERNS = (
    # SAS and other signatures in query strings
    re.compile(r"(?i)([?&](?:sig|signature|sv|se|sp|token|access_token|code|api[-_]?key)=)[^&\s\"'<>]+"),
    re.compile(r"(?i)((?:%26|%3F)sig%3D)[^&\s\"'<>]+"),
    # connection strings and JSON members
    re.compile(_NAMED + r"([\"']))(?:(?!\2).)+"),
    re.compile(_NAMED + r")[^;,\s\"'&]+"),
    # passwords in URLs
    re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s]+(?=@)"),
    # credentials in headers
    re.compile(r"(?i)((?:Bearer|ApiKey|SharedAccessSignature)\s+)[A-Za-z0-9._~+/=%&-]{8,}"),
    re.compile(r"(?i)((?:x-api-key|x-functions-key|authorization)[\"']?\s*[:=]\s*[\"']?)(?!Bearer\s)[^\s,;\"']+"),
    # webhook secrets and JSON web tokens
    re.compile(r"()whsec_[A-Za-z0-9+/=]+"),
    re.compile(r"()eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
)
_MARKS = re.compile(r"[=:]|whsec_|eyJ|%3D|(?i:bearer|apikey|signature)\s")


def redact(text: str) -> str:
    """``text`` with everything that looks like a credential replaced by ``***``."""
    if _MARKS.search(text) is None:
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: f"{match.group(1)}{_HIDDEN}", text)
    return text


def json_ready(value: Any, *, depth: int = 8) -> Any:
    """``value`` as JSON can hold it and without credentials; never fails, whatever it is given.

    What has no JSON form becomes its ``repr``, NaN and infinities become text, and nesting ends at ``depth``.
    """
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return redact(value)
    try:
        if depth > 0 and isinstance(value, Mapping):
            return {redact(str(key)): _member(str(key), item, depth) for key, item in value.items()}
        if depth > 0 and isinstance(value, list | tuple | set | frozenset):
            return [json_ready(item, depth=depth - 1) for item in value]
        return redact(repr(value))[:2_000]
    except Exception:  # noqa: BLE001 - a value that cannot even be shown is still no reason to fail
        return f"({type(value).__name__} without a readable form)"


def _member(key: str, item: Any, depth: int) -> Any:
    if isinstance(item, str) and redact(f"{key}={item}").endswith(f"={_HIDDEN}"):
        return _HIDDEN
    return json_ready(item, depth=depth - 1)
