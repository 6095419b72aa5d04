"""process_raster_collection: many sources, one STAC collection and mosaic, and a report that names what failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from core.errors import InvalidInput
from core.states import JobStatus
from services.raster.collection_job import names_of
from testing.test_core_machine import run_job
from tests.raster_support import RASTERS, textured, write_raster


def quarters(tmp_path: Path, **options: Any) -> tuple[list[str], Any]:
    """Four rasters that lie side by side, and the pixels of all of them."""
    whole = textured(1, 200, 240, "int16")
    sources = []
    for number, (top, left) in enumerate(((0, 0), (0, 120), (100, 0), (100, 120))):
        corner = Affine(10.0, 0.0, 500_000.0 + 10 * left, 0.0, -10.0, 5_000_000.0 - 10 * top)
        piece = whole[:, top : top + 100, left : left + 120]
        path = write_raster(tmp_path / f"q{number}.tif", piece, transform=corner, **options)
        sources.append(str(path))
    return sources, whole


def run(tmp_path: Path, sources: list[str], **parameters: Any) -> Any:
    return run_job("process_raster_collection", {"sources": sources, "output_dir": str(tmp_path / "out"), **parameters})


def test_many_rasters_become_one_collection_and_one_mosaic(tmp_path: Path) -> None:
    sources, whole = quarters(tmp_path, nodata=-9999)
    done = run(tmp_path, sources, collection_id="quarters")
    assert done.job.status is JobStatus.COMPLETED
    result = done.job.result_data
    assert (result["sources"], result["processed"], result["failed"]) == (4, 4, [])
    collection = pystac.Collection.from_file(result["stac"]["path"])
    items = list(collection.get_items())
    assert sorted(item.id for item in items) == ["q0", "q1", "q2", "q3"]
    assert {item.collection_id for item in items} == {"quarters"}
    assert all(item.get_collection().id == "quarters" for item in items)
    [box] = collection.extent.spatial.bboxes
    assert box == [min(item.bbox[0] for item in items), *box[1:]]
    with rasterio.open(result["mosaic"]["path"]) as mosaic:
        np.testing.assert_array_equal(mosaic.read(), whole)
        assert mosaic.nodata == -9999
        assert mosaic.crs.to_epsg() == 32633


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 1, 3], [1, 2]], ids=["whole", "a gap", "corners"])
def test_what_no_raster_covers_is_without_data(kept: list[int], tmp_path: Path) -> None:
    sources, whole = quarters(tmp_path)
    done = run(tmp_path, [sources[number] for number in kept])
    covered = np.zeros(whole.shape[1:], bool)
    for number in kept:
        covered[100 * (number // 2) :, 120 * (number % 2) :][:100, :120] = True
    with rasterio.open(done.job.result_data["mosaic"]["path"]) as mosaic:
        np.testing.assert_array_equal(mosaic.dataset_mask() > 0, covered)
        np.testing.assert_array_equal(mosaic.read()[:, covered], whole[:, covered])


def test_rasters_that_overlap_show_what_any_of_them_has(tmp_path: Path) -> None:
    """A later raster lies over an earlier one, but not where its mask hides it."""
    expected, shown, sources = np.zeros((150, 100), "uint8"), np.zeros((150, 100), bool), []
    for number, top in enumerate((0, 50)):
        pixels = textured(1, 100, 100, "uint8", number)
        mask = np.random.default_rng(number).random((100, 100)) < 0.6
        place = Affine(10, 0, 500_000, 0, -10, 5_000_000 - 10 * top)
        path = write_raster(tmp_path / f"{number}.tif", pixels, transform=place)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
        sources.append(str(path))
        expected[top : top + 100][mask] = pixels[0][mask]
        shown[top : top + 100] |= mask
    done = run(tmp_path, sources)
    with rasterio.open(done.job.result_data["mosaic"]["path"]) as mosaic:
        np.testing.assert_array_equal(mosaic.dataset_mask() > 0, shown)
        np.testing.assert_array_equal(mosaic.read(1)[shown], expected[shown])


def test_collect_names_what_failed_and_keeps_the_rest(tmp_path: Path) -> None:
    sources, _ = quarters(tmp_path)
    missing = str(tmp_path / "missing.tif")
    corrupt = str(RASTERS / "rasterio__corrupt.tif")
    done = run(tmp_path, [*sources, missing, corrupt], failure_policy="collect")
    assert done.job.status is JobStatus.COMPLETED_WITH_ERRORS
    result = done.job.result_data
    assert {entry["source"]: entry["code"] for entry in result["failed"]} == {
        missing: "FILE_NOT_FOUND",
        corrupt: "TRUNCATED",
    }
    assert all(entry["message"] for entry in result["failed"])
    report = json.loads(Path(result["report"]["path"]).read_text())
    assert report["failed"] == result["failed"]
    assert len(report["processed"]) == 4
    assert len(list(pystac.Collection.from_file(result["stac"]["path"]).get_items())) == 4


def test_fail_fast_ends_the_job_at_the_first_failure(tmp_path: Path) -> None:
    sources, _ = quarters(tmp_path)
    done = run(tmp_path, [str(tmp_path / "missing.tif"), *sources])
    assert done.job.status is JobStatus.FAILED
    assert "missing.tif" in done.job.error_details.message


def test_a_collection_of_failures_fails(tmp_path: Path) -> None:
    done = run(tmp_path, [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")], failure_policy="collect")
    assert done.job.status is not JobStatus.COMPLETED
    errors = [task.error_details for task in done.tasks if task.task_type == "collect_rasters"]
    assert [error.code for error in errors] == ["COLLECTION_EMPTY"]


def test_rasters_that_do_not_fit_together_have_no_mosaic_and_the_reason_is_told(tmp_path: Path) -> None:
    sources, _ = quarters(tmp_path)
    other = write_raster(tmp_path / "other.tif", textured(1, 50, 50, "int16"), crs="EPSG:32634")
    result = run(tmp_path, [*sources, str(other)]).job.result_data
    assert result["mosaic"] is None
    assert "CRS" in result["no_mosaic_because"]
    assert result["processed"] == 5


def test_sources_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    sources = []
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        path = write_raster(tmp_path / folder / "scene.tif", np.full((1, 20, 20), value, "uint8"))
        sources.append(str(path))
    result = run(tmp_path, sources).job.result_data
    items = list(pystac.Collection.from_file(result["stac"]["path"]).get_items())
    found = []
    for item in items:
        with rasterio.open(Path(item.get_self_href()).parent / item.assets["data"].href) as cog:
            found.append(int(cog.read().max()))
    assert sorted(found) == [1, 2]


def test_a_tiled_source_is_a_child(tmp_path: Path) -> None:
    sources, whole = quarters(tmp_path)
    result = run(tmp_path, sources, tiling_threshold_mb=0).job.result_data
    collection = pystac.Collection.from_file(result["stac"]["path"])
    assert len(list(collection.get_children())) == 4
    with rasterio.open(result["mosaic"]["path"]) as mosaic:
        np.testing.assert_array_equal(mosaic.read(), whole)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"sources": []}, "sources"),
        ({"sources": ["/a.tif", "/a.tif"]}, "sources"),
        ({"sources": ["/a.tif"], "failure_policy": "ignore"}, "failure_policy"),
        ({"sources": ["/a.tif"], "collection_id": "a/b"}, "collection_id"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        run_job("process_raster_collection", parameters)


def test_names_are_each_their_own() -> None:
    names = names_of(["/x/a.tif", "/y/a.tif", "/z/A.tif", "/z/a_1.tif", "https://host/b.tif?version=2", "/ü/東.tif"])
    assert len({name.lower() for name in names}) == 6
    assert names[3:] == ["a_1", "b", "raster"]
