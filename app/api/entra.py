"""Entra ID bearer tokens: signature by the tenant's keys, audience, issuer, expiry and calling app are checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jwt
from starlette.requests import Request

from app.api.auth import Caller, Unauthenticated

logger = logging.getLogger(__name__)

_AUTHORITY = "https://login.microsoftonline.com"


class EntraTokens:
    """Accepts v1 and v2 access tokens of one tenant for one audience, from any or from the allowed client ids."""

    def __init__(
        self, tenant_id: str, audience: str, allowed_app_ids: Sequence[str] = (), *, jwks_url: str | None = None
    ) -> None:
        self._audience = audience
        self._issuers = [f"{_AUTHORITY}/{tenant_id}/v2.0", f"https://sts.windows.net/{tenant_id}/"]
        self._allowed = frozenset(allowed_app_ids)
        self._keys = jwt.PyJWKClient(
            jwks_url or f"{_AUTHORITY}/{tenant_id}/discovery/v2.0/keys", cache_keys=True, lifespan=3600, timeout=10
        )

    def authenticate(self, request: Request) -> Caller | None:
        """The caller of a bearer token; None without one; Unauthenticated when it is not accepted."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        try:
            key = self._keys.get_signing_key_from_jwt(token.strip())
            claims = jwt.decode(
                token.strip(),
                key,
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuers,
                options={"require": ["exp", "iss", "aud"]},
                leeway=60,
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the bearer token is not accepted: {error}") from error
        app_id = str(claims.get("azp") or claims.get("appid") or "")
        if self._allowed and app_id not in self._allowed:
            raise Unauthenticated("the bearer token's client is not allowed")
        return Caller(f"entra:{app_id or claims.get('oid') or 'unknown'}")
