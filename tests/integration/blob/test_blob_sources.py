"""Blobs as sources, from a real Blob endpoint."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient

from app.doctor import Verdict, diagnose
from app.settings import Settings
from core.errors import TransientError
from core.storage import StorageRefused
from infrastructure.storage.download import DownloadLimits
from infrastructure.storage.handler_storage import HandlerStorage
from services.raster import sample_raster
from services.raster.parameters import ProcessRaster, ValidateRaster
from services.raster.steps import run_validation
from tests.azurite import KEY, Azurite
from tests.raster_support import context_in

CONTENT = hashlib.shake_128(b"blob").digest(20_000_000)


def ignore(done: int, total: int | None) -> None:
    """Watches nothing."""


def fetch(storage: HandlerStorage, address: str, into: Path, watch: Any = ignore) -> Any:
    into.mkdir(exist_ok=True)
    return storage.fetch(address, into, field="source_url", watch=watch)


def test_a_blob_is_copied_by_either_address(
    storage: HandlerStorage, container: ContainerClient, blob_service: Azurite, tmp_path: Path
) -> None:
    container.upload_blob("2024/my scene.tif", CONTENT)
    by_name = fetch(storage, f"az://{container.container_name}/2024/my scene.tif", tmp_path / "a")
    url = f"{blob_service.account_url}/{container.container_name}/2024/my%20scene.tif"
    by_url = fetch(storage, url, tmp_path / "b")
    assert by_name.path.read_bytes() == by_url.path.read_bytes() == CONTENT
    assert by_name.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert by_name.shown == by_url.shown == url
    assert by_name.name == "my scene.tif"


def test_a_killed_copy_goes_on_where_it_was(
    storage: HandlerStorage, container: ContainerClient, tmp_path: Path
) -> None:
    container.upload_blob("a.tif", CONTENT)
    address = f"az://{container.container_name}/a.tif"

    class Killed(BaseException):
        pass

    def kill(done: int, total: int | None) -> None:
        if done > 8_000_000:
            raise Killed

    with pytest.raises(Killed):
        fetch(storage, address, tmp_path / "a", kill)
    had = (tmp_path / "a" / "data.part").stat().st_size
    first: list[int] = []
    fetched = fetch(storage, address, tmp_path / "a", lambda done, total: first.append(done))
    assert had >= 8_000_000
    assert first[0] > had
    assert fetched.path.read_bytes() == CONTENT


def test_a_blob_that_changed_meanwhile_is_had_from_its_beginning(
    storage: HandlerStorage, container: ContainerClient, tmp_path: Path
) -> None:
    container.upload_blob("a.tif", CONTENT)
    address = f"az://{container.container_name}/a.tif"

    class Killed(BaseException):
        pass

    def kill(done: int, total: int | None) -> None:
        raise Killed

    with pytest.raises(Killed):
        fetch(storage, address, tmp_path / "a", kill)
    for changed in (CONTENT[::-1], b"much shorter"):
        container.upload_blob("a.tif", changed, overwrite=True)
        assert fetch(storage, address, tmp_path / "a").path.read_bytes() == changed
        (tmp_path / "a" / "data").rename(tmp_path / "a" / "data.part")
        (tmp_path / "a" / "state.json").write_text('{"version": "\\"0x0\\"", "size": 99999999}')


def test_an_empty_blob_is_an_empty_file(storage: HandlerStorage, container: ContainerClient, tmp_path: Path) -> None:
    container.upload_blob("a.tif", b"")
    assert fetch(storage, f"az://{container.container_name}/a.tif", tmp_path / "a").size == 0


def test_what_is_not_there(storage: HandlerStorage, container: ContainerClient, tmp_path: Path) -> None:
    for address in (f"az://{container.container_name}/none.tif", "az://no-such-container/none.tif"):
        with pytest.raises(StorageRefused) as caught:
            fetch(storage, address, tmp_path / "a")
        assert caught.value.code == "FILE_NOT_FOUND"
        assert str(caught.value).startswith("source_url: ")


def test_a_wrong_key_is_refused_and_not_shown(
    container: ContainerClient, blob_service: Azurite, tmp_path: Path
) -> None:
    container.upload_blob("a.tif", b"x")
    wrong = "d3Jvbmcta2V5LXRoYXQtbXVzdC1ub3QtYmUtc2hvd24="
    spec = replace(blob_service.spec, blob_account_key=wrong)
    assert wrong not in repr(spec)
    storage = HandlerStorage(spec)
    with pytest.raises(StorageRefused) as caught:
        fetch(storage, f"az://{container.container_name}/a.tif", tmp_path / "a")
    storage.close()
    assert caught.value.code == "FILE_NOT_READABLE"
    assert wrong not in str(caught.value)


def test_no_service_is_a_passing_fault(blob_service: Azurite, tmp_path: Path) -> None:
    spec = replace(blob_service.spec, blob_account_url="http://127.0.0.1:9/devstoreaccount1")
    storage = HandlerStorage(spec, limits=DownloadLimits(min_free_bytes=1, tries=1))
    with pytest.raises(TransientError):
        fetch(storage, "az://bronze/a.tif", tmp_path / "a")
    storage.close()


@pytest.mark.parametrize("address", ["az://", "az://bronze", "az://bronze/", "az://bronze/../other/a.tif"])
def test_what_names_no_blob(address: str, storage: HandlerStorage, tmp_path: Path) -> None:
    with pytest.raises(StorageRefused) as caught:
        fetch(storage, address, tmp_path / "a")
    assert caught.value.code == "SOURCE_NOT_SUPPORTED"


def test_another_account_is_no_account_of_this_worker(storage: HandlerStorage, tmp_path: Path) -> None:
    with pytest.raises(StorageRefused) as caught:
        fetch(storage, "https://other.blob.core.windows.net/bronze/a.tif", tmp_path / "a")
    assert caught.value.code == "SOURCE_NOT_ALLOWED"


def test_validate_raster_of_container_and_blob(
    storage: HandlerStorage, container: ContainerClient, tmp_path: Path
) -> None:
    container.upload_blob("2024/scene.tif", sample_raster().read_bytes())
    context, _ = context_in(tmp_path)
    context.services = {"storage": storage}
    params = ValidateRaster.model_validate({"container_name": container.container_name, "blob_name": "2024/scene.tif"})
    found = run_validation(params, context)
    assert found["source_crs"] == "EPSG:32618"
    assert found["source_url"].endswith(f"/{container.container_name}/2024/scene.tif")
    assert ProcessRaster.model_validate(params.model_dump(exclude_none=True)).source_url == params.source_url


def diagnosed(blob_service: Azurite, tmp_path: Path, **settings: Any) -> Any:
    made = Settings.from_env({}, data_dir=tmp_path, blob_account_url=blob_service.account_url, **settings)
    [finding] = [finding for finding in diagnose(made) if finding.subject == "storage"]
    return finding


def test_the_doctor_signs_in(blob_service: Azurite, tmp_path: Path) -> None:
    finding = diagnosed(blob_service, tmp_path, blob_account_key=KEY, output_url="az://silver/out")
    assert finding.verdict is Verdict.OK
    assert "account key" in finding.text
    assert KEY not in finding.text


def test_the_doctor_finds_a_wrong_key_and_a_wrong_destination(blob_service: Azurite, tmp_path: Path) -> None:
    finding = diagnosed(blob_service, tmp_path, blob_account_key="d3Jvbmc=")
    assert finding.verdict is Verdict.FAULT
    assert finding.text.startswith("BLOB_ACCOUNT_URL: ")
    finding = diagnosed(blob_service, tmp_path, blob_account_key=KEY, output_url="https://elsewhere.example/out")
    assert finding.verdict is Verdict.FAULT
    assert finding.text.startswith("OUTPUT_URL: ")
