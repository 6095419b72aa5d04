"""One Azurite a session, and a fresh container a test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient
from pydantic import SecretStr

from app.composition import Application
from infrastructure.storage.handler_storage import HandlerStorage
from tests.azurite import ACCOUNT, KEY, Azurite, azurite

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def blob_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A running emulator."""
    with azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture
def container(blob_service: Azurite) -> Iterator[ContainerClient]:
    """A client of an empty container, beside the code under test."""
    credential = {"account_name": ACCOUNT, "account_key": KEY}
    with BlobServiceClient(blob_service.account_url, credential=credential) as client:
        made = client.create_container(f"test-{next(_numbers)}")
        yield made


@pytest.fixture
def application(
    start_application: Callable[..., Application], blob_service: Azurite, container: ContainerClient
) -> Application:
    """A running process whose outputs go into the container."""
    return start_application(
        blob_account_url=blob_service.account_url,
        blob_account_key=SecretStr(KEY),
        output_url=f"az://{container.container_name}/out",
        min_free_disk_mb=1,
    )


@pytest.fixture
def storage(blob_service: Azurite) -> Iterator[HandlerStorage]:
    """The storage that handlers would have, with the account's key."""
    made = HandlerStorage(blob_service.spec)
    yield made
    made.close()
