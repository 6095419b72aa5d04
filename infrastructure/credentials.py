"""Entra ID tokens: database passwords, and bearer tokens for the worker."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from infrastructure.connection_pool import PasswordProvider

DATABASE_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"
_MARGIN_SECONDS = 300


class AccessToken(Protocol):
    """A token and when it ends (seconds since the epoch)."""

    @property
    def token(self) -> str: ...

    @property
    def expires_on(self) -> int: ...


class TokenCredential(Protocol):
    """What azure-identity's credentials offer."""

    def get_token(self, *scopes: str) -> AccessToken: ...


class TokenPassword:
    """Asks the credential for a token, keeps it until five minutes before its end, and asks again."""

    def __init__(self, credential: TokenCredential, scope: str = DATABASE_SCOPE) -> None:
        self._credential = credential
        self._scope = scope
        self._lock = threading.Lock()
        self._token: AccessToken | None = None

    def __call__(self) -> str:
        """The token of the moment."""
        with self._lock:
            if self._token is None or self._token.expires_on - time.time() < _MARGIN_SECONDS:
                self._token = self._credential.get_token(self._scope)
            return self._token.token

    def __repr__(self) -> str:
        return f"TokenPassword(scope={self._scope!r})"


def entra_database_password(credential: TokenCredential | None = None) -> PasswordProvider:
    """A password provider for the connection pool; the default credential finds managed and workload identities."""
    return entra_token(DATABASE_SCOPE, credential)


def entra_token(scope: str, credential: TokenCredential | None = None) -> TokenPassword:
    """Gives the access token of the moment; the default credential finds managed and workload identities."""
    if credential is None:
        from azure.identity import DefaultAzureCredential

        credential = DefaultAzureCredential()
    return TokenPassword(credential, scope)
