"""Entra identities: Azurite checks the bearer token (its form, issuer, audience and time), over TLS.

The token is of this test's own making: Azurite does not verify its signature, and no Entra ID takes part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import BlobServiceClient

from core.errors import TransientError
from core.storage import StorageRefused
from infrastructure.storage.download import DownloadLimits
from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
from tests.azurite import ACCOUNT, KEY, Azurite, azurite
from tests.file_server import make_certificate

SCOPE = "https://storage.azure.com/.default"


@dataclass
class ManagedIdentity:
    """Stands for azure-identity's credential: gives tokens, and remembers what it was asked for."""

    audience: str = "https://storage.azure.com"
    asked: list[str] = field(default_factory=list)

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.asked.extend(scopes)
        now = int(time.time())
        claims = {
            "aud": self.audience,
            "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
        }
        return AccessToken(jwt.encode(claims, "k" * 32, algorithm="HS256"), now + 3600)


class NoIdentity:
    """What a machine without an identity has."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        raise ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    directory = tmp_path_factory.mktemp("azurite-tls")
    pem = str(make_certificate(directory))
    with (
        pytest.MonkeyPatch.context() as patch,
        azurite(directory, ["--oauth", "basic", "--cert", pem, "--key", pem]) as it,
    ):
        patch.setenv("REQUESTS_CA_BUNDLE", pem)
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        with BlobServiceClient(it.account_url, credential=credential) as client:
            client.create_container("bronze").upload_blob("a.tif", b"x" * 100)
            client.create_container("silver")
        yield it


def using(service: Azurite, credential: Any) -> HandlerStorage:
    spec = StorageSpec(blob_account_url=service.account_url)
    return HandlerStorage(spec, credential=credential, limits=DownloadLimits(min_free_bytes=1, tries=1))


def ignore(done: int, total: int | None) -> None:
    """Watches nothing."""


def test_an_identity_reads_and_writes(secure: Azurite, tmp_path: Path) -> None:
    identity = ManagedIdentity()
    storage = using(secure, identity)
    fetched = storage.fetch("az://bronze/a.tif", tmp_path, field="source_url", watch=ignore)
    place = storage.destination("az://silver/out", field="output_dir")
    place.put(fetched.path, "a.tif", content_type="image/tiff", sha256=fetched.sha256)
    storage.close()
    assert fetched.path.read_bytes() == b"x" * 100
    assert set(identity.asked) == {SCOPE}


def test_a_token_that_the_service_does_not_take(secure: Azurite, tmp_path: Path) -> None:
    storage = using(secure, ManagedIdentity(audience="https://elsewhere.example"))
    with pytest.raises(StorageRefused) as caught:
        storage.fetch("az://bronze/a.tif", tmp_path, field="source_url", watch=ignore)
    storage.close()
    assert caught.value.code == "FILE_NOT_READABLE"


def test_no_identity_is_a_passing_fault_that_says_so(secure: Azurite, tmp_path: Path) -> None:
    storage = using(secure, NoIdentity())
    with pytest.raises(TransientError, match="no Entra token"):
        storage.fetch("az://bronze/a.tif", tmp_path, field="source_url", watch=ignore)
    storage.close()
