"""Outputs in a container: whole or not at all, once, found again after a kill."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobClient, ContainerClient

from core.handlers import HandlerRegistry
from core.records import TaskResult
from core.states import TaskStatus
from core.storage import StorageRefused
from infrastructure.storage.blob import BLOCK_BYTES
from infrastructure.storage.handler_storage import HandlerStorage
from services.raster import sample_raster
from services.raster.complete import process
from services.raster.jobs import ProcessRasterV2
from services.raster.parameters import ProcessRaster
from services.raster.registry import HANDLERS
from services.raster.watch import StopRequested
from tests.raster_support import MemoryCheckpoint, context_in

CONTENT = hashlib.shake_128(b"output").digest(30_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.tif"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the blocks that have arrived."""
    sent: list[str] = []
    real = BlobClient.stage_block

    def counted(self: BlobClient, block_id: str, *rest: Any, **named: Any) -> Any:
        answer = real(self, block_id, *rest, **named)
        sent.append(block_id)
        return answer

    monkeypatch.setattr(BlobClient, "stage_block", counted)
    return sent


def names(container: ContainerClient) -> set[str]:
    return {blob.name for blob in container.list_blobs()}


def test_a_file_appears_whole_with_its_type_and_checksum(
    storage: HandlerStorage, container: ContainerClient, file: Path
) -> None:
    place = storage.destination(f"az://{container.container_name}/cogs/a b", field="output_dir")
    place.put(file, "tiles/made.tif", content_type="image/tiff", sha256=SHA256)
    [name] = names(container)
    assert name == "cogs/a b/tiles/made.tif"
    blob = container.get_blob_client(name)
    properties = blob.get_blob_properties()
    assert blob.download_blob().readall() == CONTENT
    assert properties.content_settings.content_type == "image/tiff"
    assert bytes(properties.content_settings.content_md5 or b"") == hashlib.md5(CONTENT).digest()
    assert properties.metadata == {"sha256": SHA256}
    assert place.address_of("tiles/made.tif") == blob.url.partition("?")[0]


def test_nothing_is_under_the_name_until_all_is_there(
    storage: HandlerStorage, container: ContainerClient, file: Path
) -> None:
    place = storage.destination(f"az://{container.container_name}/out", field="output_dir")
    seen: list[set[str]] = []
    progress: list[int] = []

    def watch(done: int, total: int | None) -> None:
        seen.append(names(container))
        progress.append(done)

    place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256, watch=watch)
    assert len(seen) >= 4
    assert not any(seen)
    assert progress == sorted(progress)
    assert progress[-1] == len(CONTENT)
    assert names(container) == {"out/made.tif"}


def test_what_an_earlier_version_was_stays_until_the_new_one_is_whole(
    storage: HandlerStorage, container: ContainerClient, file: Path
) -> None:
    container.upload_blob("out/made.tif", b"the old one")
    place = storage.destination(f"az://{container.container_name}/out", field="output_dir")

    def watch(done: int, total: int | None) -> None:
        assert container.download_blob("out/made.tif").readall() == b"the old one"

    place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256, watch=watch)
    assert container.download_blob("out/made.tif").readall() == CONTENT


def test_an_upload_that_was_cut_off_goes_on_where_it_was(
    storage: HandlerStorage, container: ContainerClient, file: Path, staged: list[str]
) -> None:
    place = storage.destination(f"az://{container.container_name}/out", field="output_dir")

    def stop(done: int, total: int | None) -> None:
        assert done <= len(staged) * BLOCK_BYTES
        if done > 16_000_000:  # two blocks are there
            raise StopRequested

    with pytest.raises(StopRequested):
        place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256, watch=stop)
    assert names(container) == set()
    before = len(staged)
    place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256)
    assert before >= 2
    assert len(staged) == 4
    assert len(set(staged)) == 4
    assert container.download_blob("out/made.tif").readall() == CONTENT


def test_what_is_there_already_is_not_sent_again(
    storage: HandlerStorage, container: ContainerClient, file: Path, staged: list[str]
) -> None:
    place = storage.destination(f"az://{container.container_name}/out", field="output_dir")
    place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256)
    place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256)
    assert len(staged) == 4


def test_an_empty_file(storage: HandlerStorage, container: ContainerClient, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    place = storage.destination(f"az://{container.container_name}", field="output_dir")
    place.put(tmp_path / "empty", "empty", content_type="text/plain", sha256=hashlib.sha256().hexdigest())
    assert container.download_blob("empty").readall() == b""


def test_a_container_that_is_not_there(storage: HandlerStorage, file: Path) -> None:
    place = storage.destination("az://no-such-container/out", field="output_dir")
    with pytest.raises(StorageRefused) as caught:
        place.put(file, "made.tif", content_type="image/tiff", sha256=SHA256)
    assert caught.value.code == "OUTPUT_NOT_WRITABLE"
    assert "output_dir" in str(caught.value)


@pytest.mark.parametrize("address", ["https://example.org/out", "https://other.blob.core.windows.net/a/b", "s3://x/y"])
def test_other_places_are_refused(address: str, storage: HandlerStorage) -> None:
    with pytest.raises(StorageRefused) as caught:
        storage.destination(address, field="output_dir")
    assert caught.value.code == "OUTPUT_NOT_ALLOWED"


def run(storage: HandlerStorage, container: ContainerClient, tmp_path: Path, checkpoint: MemoryCheckpoint) -> Any:
    context, _ = context_in(tmp_path, checkpoint=checkpoint)
    context.services = {"storage": storage}
    container_name = container.container_name
    params = ProcessRaster(source_url=str(sample_raster()), output_dir=f"az://{container_name}/cogs")
    return process(params, context), context


def test_the_whole_chain_into_a_container(storage: HandlerStorage, container: ContainerClient, tmp_path: Path) -> None:
    result, context = run(storage, container, tmp_path, MemoryCheckpoint())
    prefix = f"cogs/{'a' * 16}"
    assert names(container) == {f"{prefix}/RGB.byte.{ending}" for ending in ("tif", "json", "png")}
    for part in ("cog", "stac", "thumbnail"):
        content = container.download_blob(f"{prefix}/{Path(result[part]['path']).name}").readall()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            result[part]["size_bytes"],
            result[part]["sha256"],
        )
        assert result[part]["path"].startswith(container.url.partition("?")[0])
    item = json.loads(container.download_blob(f"{prefix}/RGB.byte.json").readall())
    assert item["assets"]["data"]["href"] == "./RGB.byte.tif"
    types = {blob.name[-4:]: blob.content_settings.content_type for blob in container.list_blobs()}
    assert types == {
        ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
        "json": "application/geo+json",
        ".png": "image/png",
    }
    assert not (context.work_path / "outputs").exists()


def test_a_kill_between_making_and_sending_sends_without_making_again(
    storage: HandlerStorage, container: ContainerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    class KilledAfterDescribing(MemoryCheckpoint):
        def save(self, phase: int, *arguments: Any, **named: Any) -> None:
            super().save(phase, *arguments, **named)
            if phase == 3 and self.saved.count(3) == 1:
                raise Killed

    checkpoint = KilledAfterDescribing()
    with pytest.raises(Killed):
        run(storage, container, tmp_path, checkpoint)
    assert names(container) == set()
    result, _ = run(storage, container, tmp_path, checkpoint)
    assert checkpoint.saved == [1, 2, 3, 4]
    assert len(names(container)) == 3
    assert result["success"] is True


def test_three_stages_hand_blobs_to_each_other(
    storage: HandlerStorage, container: ContainerClient, tmp_path: Path
) -> None:
    """Each stage runs on a machine of its own: nothing but the container is shared."""
    job, handlers = ProcessRasterV2(), HandlerRegistry(HANDLERS)
    container.upload_blob("in/scene.tif", sample_raster().read_bytes())
    given = ProcessRaster.model_validate(
        {
            "container_name": container.container_name,
            "blob_name": "in/scene.tif",
            "output_dir": f"az://{container.container_name}/out",
        }
    )
    previous: list[TaskResult] = []
    for stage in job.stages:
        [plan] = job.plan(stage, given, previous)
        context, _ = context_in(tmp_path / f"machine-{stage.number}")
        context.services = {"storage": storage}
        result = dict(handlers[stage.task_type].call(plan.parameters, context))
        previous = [
            TaskResult(task_id="t", task_index=0, status=TaskStatus.COMPLETED, result_data=result, error_details=None)
        ]
    prefix = f"out/{'a' * 16}/scene"
    assert names(container) == {"in/scene.tif", f"{prefix}.tif", f"{prefix}.json", f"{prefix}.png"}
    assert previous[0].result_data is not None
    assert previous[0].result_data["cog"]["path"].endswith(f"{prefix}.tif")
    item = json.loads(container.download_blob(f"{prefix}.json").readall())
    assert item["assets"]["data"]["href"] == "./scene.tif"
    with pytest.raises(ResourceNotFoundError):
        container.download_blob(f"out/{'a' * 16}/data.json")
