"""Entra ID bearer tokens: signature by the tenant's keys, audience, issuer, expiry and calling app are checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jwt
from starlette.requests import Request

from app.api.auth import Caller, Forbidden, IdentityUnavailable, Unauthenticated

logger = logging.getLogger(__name__)

_LIFESPAN_SECONDS = 3600  # of the tenant's keys; an unknown key id asks for them again, at most twice a minute
_TIMEOUT_SECONDS = 10
_LEEWAY_SECONDS = 60


class EntraTokens:
    """Accepts v1 and v2 access tokens of one tenant for one audience, from any or from the allowed client ids.

    Source of the claims: Microsoft identity platform, "Access token claims reference" (``azp`` in v2, ``appid`` in v1).
    """

    may_block = True

    def __init__(self, tenant_id: str, audience: str, allowed_app_ids: Sequence[str] = (), *, authority: str) -> None:
        base = f"{authority.rstrip('/')}/{tenant_id}"
        self._audience = audience
        self._issuers = [f"{base}/v2.0", f"https://sts.windows.net/{tenant_id}/"]
        self._allowed = frozenset(allowed_app_ids)
        self._keys = jwt.PyJWKClient(
            f"{base}/discovery/v2.0/keys", lifespan=_LIFESPAN_SECONDS, timeout=_TIMEOUT_SECONDS
        )

    def authenticate(self, request: Request) -> Caller | None:
        """The caller of a bearer token; None without one.

        Raises:
            Unauthenticated: when it is not accepted.
            IdentityUnavailable: when the tenant's keys cannot be had.
        """
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
                leeway=_LEEWAY_SECONDS,
            )
        except jwt.PyJWKClientConnectionError as error:
            logger.error("the tenant's keys cannot be had: %s", error, extra={"action": "auth.unavailable"})  # noqa: TRY400
            raise IdentityUnavailable("tokens cannot be checked now: the tenant's keys cannot be had") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the bearer token is not accepted: {error}") from error
        app_id = str(claims.get("azp") or claims.get("appid") or "")
        if self._allowed and app_id not in self._allowed:
            raise Forbidden("the bearer token's client is not among ENTRA_ALLOWED_APP_IDS")
        return Caller(f"entra:{app_id or claims.get('oid') or 'unknown'}")
