"""Keeps secrets out of logs, errors and stored state."""

from __future__ import annotations

import re

_HIDDEN = "***"
_PATTERNS = (
    # SAS and other signatures in query strings
    re.compile(r"(?i)([?&](?:sig|signature|sv|se|sp|token|access_token|code|api[-_]?key)=)[^&\s\"'<>]+"),
    # connection strings
    re.compile(r"(?i)((?:AccountKey|SharedAccessKey|SharedAccessSignature|Password|Pwd)\s*=\s*)[^;\s\"']+"),
    # passwords in URLs
    re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^/\s:@]*:)[^@/\s]+(?=@)"),
    # credentials in headers
    re.compile(r"(?i)((?:Bearer|ApiKey|SharedAccessSignature)\s+)[A-Za-z0-9._~+/=%&-]{8,}"),
    re.compile(r"(?i)((?:x-api-key|x-functions-key|authorization)\s*[:=]\s*)[^\s,;]+"),
    # webhook secrets and JSON web tokens
    re.compile(r"()whsec_[A-Za-z0-9+/=]+"),
    re.compile(r"()eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
)


def redact(text: str) -> str:
    """``text`` with everything that looks like a credential replaced by ``***``."""
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: f"{match.group(1)}{_HIDDEN}", text)
    return text
