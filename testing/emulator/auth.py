"""Who may do what: SASL PLAIN with a shared key, and the tokens that ``$cbs`` takes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from testing.emulator.broker import DEAD_LETTER_PATH
from testing.emulator.conditions import UNAUTHORIZED, Refusal
from testing.emulator.config import EmulatorConfig

_SAS_PREFIX = "SharedAccessSignature "


@dataclass(frozen=True, slots=True)
class Grant:
    """A right to everything below ``path`` ("" is the whole namespace) until ``expires_at``, seconds since 1970."""

    path: str
    expires_at: float

    def covers(self, path: str) -> bool:
        return not self.path or path == self.path or path.startswith(f"{self.path}/")


class Authority:
    """Checks keys and tokens against the configured shared access key. Every refusal is a Refusal (unauthorized)."""

    def __init__(self, config: EmulatorConfig) -> None:
        self._config = config

    def plain_is_valid(self, response: bytes) -> bool:
        """A SASL PLAIN response: key name as user, key as password."""
        parts = response.split(b"\0")
        expected = (self._config.key_name.encode(), self._config.key.encode())
        return len(parts) == 3 and hmac.compare_digest(b"\0".join(parts[1:]), b"\0".join(expected))

    def accept(self, token: str, audience: str, now: float) -> Grant:
        """The right that a token gives: a shared access signature is verified, an Entra token read for its expiry."""
        if token.startswith(_SAS_PREFIX):
            return self._signed(token.removeprefix(_SAS_PREFIX), now)
        if not token:
            raise Refusal(UNAUTHORIZED, "MalformedToken: The token is empty.")
        expires_at = _jwt_expiry(token)
        if expires_at <= now:
            raise Refusal(UNAUTHORIZED, "ExpiredToken: The token is expired.")
        return Grant(_path(audience), expires_at)

    def _signed(self, fields: str, now: float) -> Grant:
        values = dict(part.partition("=")[::2] for part in fields.split("&"))
        missing = [name for name in ("sr", "sig", "se", "skn") if not values.get(name)]
        if missing:
            raise Refusal(UNAUTHORIZED, f"MalformedToken: The token lacks {', '.join(missing)}.")
        if unquote_plus(values["skn"]) != self._config.key_name:
            raise Refusal(UNAUTHORIZED, "InvalidSignature: The token names an unknown key.")
        signed = f"{values['sr']}\n{values['se']}".encode()
        expected = base64.b64encode(hmac.new(self._config.key.encode(), signed, hashlib.sha256).digest()).decode()
        if not hmac.compare_digest(unquote_plus(values["sig"]).encode(), expected.encode()):
            raise Refusal(UNAUTHORIZED, "InvalidSignature: The token has an invalid signature.")
        try:
            expires_at = float(values["se"])
        except ValueError:
            raise Refusal(UNAUTHORIZED, "MalformedToken: The token's expiry is no number.") from None
        if expires_at <= now:
            raise Refusal(UNAUTHORIZED, "ExpiredToken: The token is expired.")
        return Grant(_path(unquote_plus(values["sr"])), expires_at)


def _path(audience: str) -> str:
    """The entity that an audience names; a sub-queue's token is good for the whole entity, as on the service."""
    path = urlsplit(audience).path.strip("/").lower()
    return path.removesuffix(DEAD_LETTER_PATH)


def _jwt_expiry(token: str) -> float:
    """The ``exp`` claim, or never when the token has none or is opaque."""
    try:
        payload = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return float("inf")
