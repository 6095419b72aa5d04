"""Many files into a container, by whole jobs in child processes: tiles with their mosaic, and collections."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from azure.storage.blob import ContainerClient
from rio_cogeo.cogeo import cog_validate

from app.composition import Application
from core.records import AttemptOutcome, JobRecord, TaskQuery
from core.states import TERMINAL_JOB_STATUSES, JobStatus
from tests.azurite import ACCOUNT, KEY, Azurite
from tests.process_support import wait_until
from tests.raster_support import textured, write_raster

PATIENCE = 120
TILED = {"tiling_threshold_mb": 0, "tile_size": 512, "blocksize": 256}
SMALL = {"blocksize": 256}


@contextmanager
def gdal_sees(service: Azurite) -> Iterator[None]:
    """GDAL opens the service's blobs by itself, below ``/vsiaz/``, as a reader of the outputs would."""
    account = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={service.account_url}"
    with rasterio.Env(AZURE_STORAGE_CONNECTION_STRING=f"DefaultEndpointsProtocol=http;{account}"):
        yield


def vsi(address: str, service: Azurite) -> str:
    return address.replace(service.account_url, "/vsiaz")


def has_ended(application: Application, job_id: str) -> bool:
    return job_of(application, job_id).status in TERMINAL_JOB_STATUSES


def job_of(application: Application, job_id: str) -> JobRecord:
    job = application.store.get_job(job_id)
    assert job is not None
    return job


def submit(application: Application, job_type: str, parameters: dict[str, Any]) -> str:
    return application.machine.submit_job(job_type, parameters).job.job_id


def run(application: Application, job_type: str, parameters: dict[str, Any]) -> Any:
    job_id = submit(application, job_type, parameters)
    wait_until(lambda: has_ended(application, job_id), PATIENCE)
    job = job_of(application, job_id)
    assert job.status is JobStatus.COMPLETED, job.error_details
    return job.result_data


def names(container: ContainerClient) -> set[str]:
    """Every blob of the outputs, those without content yet among them."""
    return {blob.name for blob in container.list_blobs(name_starts_with="out/", include=["uncommittedblobs"])}


def downloaded(container: ContainerClient, directory: Path) -> Path:
    """The outputs as plain files; each is what its checksum says."""
    for name in names(container):
        blob = container.get_blob_client(name)
        content = blob.download_blob().readall()
        assert blob.get_blob_properties().metadata == {"sha256": hashlib.sha256(content).hexdigest()}
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return directory


def local(address: str, container: ContainerClient, directory: Path) -> Path:
    return directory / address.removeprefix(f"{container.url.partition('?')[0]}/")


def test_tiles_and_their_mosaic_in_a_container_are_what_one_cog_is(
    application: Application, blob_service: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    pixels = textured(3, 1300, 1100, "int16")
    pixels[:, :600, :640] = -9999
    pixels[:, 900:910, 300:1000] = -9999
    scene = write_raster(tmp_path / "scene.tif", pixels, nodata=-9999)
    container.upload_blob("in/scene.tif", scene.read_bytes())
    source = {"source_url": f"az://{container.container_name}/in/scene.tif"}

    tiled = run(application, "process_raster_docker", {**source, **TILED})
    made = names(container)
    one = run(application, "process_raster_docker", {**source, **SMALL})

    files = [f"scene_r{row:04d}_c{column:04d}" for row in range(3) for column in range(3)][1:]
    prefix = tiled["stac"]["path"].removeprefix(f"{container.url.partition('?')[0]}/").removesuffix("/scene.json")
    assert tiled["tiles"]["without_data"] == 1
    assert made == {
        *(f"{prefix}/scene_tiles/{file}.{ending}" for file in files for ending in ("tif", "json")),
        *(f"{prefix}/scene{ending}" for ending in (".vrt", "_overview.tif", ".json", ".png")),
    }
    with (
        gdal_sees(blob_service),
        rasterio.open(vsi(tiled["mosaic"]["path"], blob_service)) as mosaic,
        rasterio.open(vsi(one["cog"]["path"], blob_service)) as cog,
    ):
        np.testing.assert_array_equal(mosaic.read(), cog.read())
        np.testing.assert_array_equal(mosaic.read_masks(), cog.read_masks())
        np.testing.assert_array_equal(mosaic.read(), pixels)
        assert (mosaic.crs, mosaic.nodatavals) == (cog.crs, cog.nodatavals)
        assert mosaic.transform.almost_equals(cog.transform, 1e-9)

    here = downloaded(container, tmp_path / "here")
    collection = pystac.Collection.from_file(str(local(tiled["stac"]["path"], container, here)))
    items = list(collection.get_items())
    assert sorted(item.id for item in items) == files
    for item in items:
        tile = Path(item.get_self_href()).parent / item.assets["data"].href
        assert cog_validate(str(tile), strict=True, quiet=True)[0]
        assert (
            item.assets["data"].extra_fields["file:checksum"] == f"1220{hashlib.sha256(tile.read_bytes()).hexdigest()}"
        )


@pytest.mark.parametrize("tiling", [SMALL, {"tiling_threshold_mb": 0}], ids=["cogs", "tiles"])
def test_a_collection_in_a_container(
    tiling: dict[str, Any], application: Application, blob_service: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    whole = (np.indices((400, 600)).sum(axis=0) // 37 % 5 * 50).astype("uint8")
    colours = {value: (value, 255 - value, 7, 255) for value in range(0, 250, 50)}
    sources = []
    for number, left in enumerate((0, 300)):
        corner = Affine(10.0, 0.0, 500_000.0 + 10 * left, 0.0, -10.0, 5_000_000.0)
        half = write_raster(tmp_path / f"half{number}.tif", whole[None, :, left : left + 300], transform=corner)
        with rasterio.open(half, "r+") as raster:
            raster.write_colormap(1, colours)
        container.upload_blob(f"in/half{number}.tif", half.read_bytes())
        sources.append(f"az://{container.container_name}/in/half{number}.tif")

    result = run(application, "process_raster_collection", {"sources": sources, "collection_id": "halves", **tiling})

    assert (result["processed"], result["failed"], result["no_mosaic_because"]) == (2, [], None)
    with gdal_sees(blob_service), rasterio.open(vsi(result["mosaic"]["path"], blob_service)) as mosaic:
        np.testing.assert_array_equal(mosaic.read(1), whole)
        assert {value: mosaic.colormap(1)[value] for value in colours} == colours
    here = downloaded(container, tmp_path / "here")
    collection = pystac.Collection.from_file(str(local(result["stac"]["path"], container, here)))
    members = [*collection.get_items(recursive=True)]
    assert len(members) == 2
    for member in members:
        with rasterio.open(Path(member.get_self_href()).parent / member.assets["data"].href) as cog:
            assert cog.shape == (400, 300)
    assert local(result["report"]["path"], container, here).is_file()
    assert KEY not in str(result)


@pytest.mark.parametrize("moment", ["making", "sending"])
def test_a_killed_task_leaves_no_half_file_in_a_container(
    moment: str, application: Application, blob_service: Azurite, container: ContainerClient, tmp_path: Path
) -> None:
    pixels = textured(3, 3000, 3000, "uint8")
    source = write_raster(tmp_path / "scene.tif", pixels)

    def has_come() -> bool:
        if moment == "making":
            return any(application.settings.data_dir.rglob("scene_r*.tif"))
        return any(container.list_blob_names(name_starts_with="out/"))

    job_id = submit(application, "process_raster_docker", {"source_url": str(source), **TILED})
    wait_until(has_come, PATIENCE)
    assert application.children is not None
    [busy] = [child["pid"] for child in application.children.status()["children"] if child["task"] is not None]
    os.kill(busy, signal.SIGKILL)
    wait_until(lambda: has_ended(application, job_id), PATIENCE)

    job = job_of(application, job_id)
    assert job.status is JobStatus.COMPLETED, job.error_details
    [task] = application.store.list_tasks(TaskQuery(job_id=job_id))
    outcomes = [attempt.outcome for attempt in application.store.list_attempts(task.task_id)]
    assert outcomes == [AttemptOutcome.FAILED, AttemptOutcome.COMPLETED]
    assert len(names(container)) == 2 * 36 + 4
    downloaded(container, tmp_path / "here")
    assert job.result_data is not None
    with gdal_sees(blob_service), rasterio.open(vsi(job.result_data["mosaic"]["path"], blob_service)) as mosaic:
        np.testing.assert_array_equal(mosaic.read(), pixels)
