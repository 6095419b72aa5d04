"""Signed URLs: the worker holds them, or one execution brings its own; no result, error or state shows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import (
    BlobSasPermissions,
    ContainerClient,
    ContainerSasPermissions,
    generate_blob_sas,
    generate_container_sas,
)

from app.run_handler import run_one
from app.settings import Settings
from core.errors import ConfigurationError, InvalidInput
from core.handlers import validate
from core.storage import StorageRefused
from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
from infrastructure.storage.signatures import lifted
from services.raster import sample_raster
from services.raster.parameters import ProcessRaster
from tests.azurite import ACCOUNT, KEY, Azurite


def expiry() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=10)


@pytest.fixture
def container_sas(container: ContainerClient) -> str:
    return generate_container_sas(
        ACCOUNT, container.container_name, KEY, permission=ContainerSasPermissions(read=True), expiry=expiry()
    )


@pytest.fixture
def blob_sas(container: ContainerClient) -> str:
    return generate_blob_sas(
        ACCOUNT,
        container.container_name,
        "in/a.tif",
        account_key=KEY,
        permission=BlobSasPermissions(read=True),
        expiry=expiry(),
    )


def address(container: ContainerClient, name: str) -> str:
    return f"{container.url.partition('?')[0]}/{name}"


def ignore(done: int, total: int | None) -> None:
    """Watches nothing."""


def test_a_blob_below_a_signed_container_is_read_with_its_signature(
    container: ContainerClient, container_sas: str, tmp_path: Path
) -> None:
    container.upload_blob("in/a.tif", b"x" * 100)
    url = address(container, "in/a.tif")
    spec = StorageSpec(
        sas_urls=(f"{container.url.partition('?')[0]}?{container_sas}",), allow_private=True, min_free_mb=1
    )
    assert container_sas not in repr(spec)
    storage = HandlerStorage(spec)
    fetched = storage.fetch(url, tmp_path, field="source_url", watch=ignore)
    assert fetched.path.read_bytes() == b"x" * 100
    assert fetched.shown == url
    elsewhere = url.replace(container.container_name, f"{container.container_name}-2")
    with pytest.raises(StorageRefused) as caught:
        storage.fetch(elsewhere, tmp_path, field="source_url", watch=ignore)
    storage.close()
    assert caught.value.code == "SOURCE_NOT_ALLOWED"


def test_an_expired_signature_is_refused_and_not_shown(container: ContainerClient, tmp_path: Path) -> None:
    container.upload_blob("in/a.tif", b"x")
    past = datetime.now(UTC) - timedelta(minutes=10)
    sas = generate_container_sas(
        ACCOUNT, container.container_name, KEY, permission=ContainerSasPermissions(read=True), expiry=past
    )
    spec = StorageSpec(sas_urls=(f"{container.url.partition('?')[0]}?{sas}",), allow_private=True, min_free_mb=1)
    storage = HandlerStorage(spec)
    with pytest.raises(StorageRefused) as caught:
        storage.fetch(address(container, "in/a.tif"), tmp_path, field="source_url", watch=ignore)
    storage.close()
    assert caught.value.code == "FILE_NOT_READABLE"
    assert "sig=" not in str(caught.value)


def run(settings: dict[str, Any], tmp_path: Path, url: str) -> tuple[bool, str]:
    made = Settings.from_env({}, data_dir=tmp_path / "data", min_free_disk_mb=1, **settings)
    succeeded, answer = run_one(made, "validate_raster", {"source_url": url}, None)
    return succeeded, json.dumps(answer)


def test_run_handler_takes_a_signed_url_of_an_allowed_host(
    container: ContainerClient, blob_sas: str, tmp_path: Path
) -> None:
    container.upload_blob("in/a.tif", sample_raster().read_bytes())
    url = f"{address(container, 'in/a.tif')}?{blob_sas}"
    allowed = {"source_allowed_hosts": "127.0.0.1", "allow_private_addresses": True}
    succeeded, answer = run(allowed, tmp_path, url)
    assert succeeded, answer
    assert "EPSG:32618" in answer
    assert "sig=" not in answer
    succeeded, answer = run({"allow_private_addresses": True}, tmp_path, url)
    assert not succeeded
    assert "SOURCE_NOT_ALLOWED" in answer
    assert "sig=" not in answer


def test_parameters_never_carry_a_signature(blob_sas: str) -> None:
    url = f"https://account.blob.core.windows.net/bronze/a.tif?{blob_sas}"
    with pytest.raises(InvalidInput, match="SOURCE_SAS_URLS") as caught:
        validate(ProcessRaster, {"source_url": url}, subject="parameters")
    assert blob_sas not in str(caught.value)
    clean, urls = lifted({"source_url": url, "sources": [{"source_url": url}], "count": 3})
    assert urls == (url, url)
    bare = "https://account.blob.core.windows.net/bronze/a.tif"
    assert clean == {"source_url": bare, "sources": [{"source_url": bare}], "count": 3}


def test_an_entry_that_is_not_signed_is_named_by_its_number() -> None:
    with pytest.raises(ConfigurationError, match="SOURCE_SAS_URLS: entry 2") as caught:
        HandlerStorage(StorageSpec(sas_urls=("https://a.example/b?sig=1", "https://a.example/b?sx=topsecret")))
    assert "topsecret" not in str(caught.value)


def test_a_signature_is_good_below_its_own_path_only(blob_service: Azurite) -> None:
    from infrastructure.storage.signatures import Signatures

    signatures = Signatures(["https://a.example/bronze?sig=1", "https://a.example/bronze/in?sig=2"], setting="X")
    assert signatures.signed("https://a.example/bronze/a.tif") == "https://a.example/bronze/a.tif?sig=1"
    assert signatures.signed("https://a.example/bronze/in/a.tif") == "https://a.example/bronze/in/a.tif?sig=2"
    for other in (
        "https://a.example/bronze2/a.tif",
        "https://b.example/bronze/a.tif",
        "http://a.example/bronze/a.tif",
        "https://a.example:8443/bronze/a.tif",
        "https://a.example/bronze/../silver/a.tif",
        "https://a.example/bronze/%2e%2e/silver/a.tif",
    ):
        assert signatures.signed(other) is None
