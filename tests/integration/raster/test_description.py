"""STAC items that hold against the schema, and thumbnails that show something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from services.raster import sample_raster
from services.raster.complete import process
from services.raster.outputs import sha256_of
from services.raster.parameters import CreateStacItem, ProcessRaster
from services.raster.steps import run_stac
from tests.raster_support import RASTERS, context_in, textured, write_raster


def described(source: Path, tmp_path: Path, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], Image.Image]:
    context, _ = context_in(tmp_path)
    result = process(ProcessRaster(source_url=str(source), output_dir=str(tmp_path), **parameters), context)
    item = json.loads(Path(result["stac"]["path"]).read_text(), parse_constant=pytest.fail)
    pystac.Item.from_dict(item)
    assert_core_schema(item)
    with Image.open(result["thumbnail"]["path"]) as picture:
        return result, item, picture.copy()


def assert_core_schema(item: dict[str, Any]) -> None:
    """Hold the item against STAC's own schema, which pystac carries; the extensions' are not shipped with it."""
    validator = JsonSchemaSTACValidator()
    validator.validate_core(item, pystac.STACObjectType.ITEM, pystac.get_stac_version())


ALL = [
    path
    for path in sorted(RASTERS.glob("*.tif"))
    if path.stem.split("__")[1] not in {"corrupt", "test_rpcs", "float_nan", "rotated"}
]


@pytest.mark.parametrize("source", ALL, ids=lambda path: path.stem)
def test_every_raster_gets_a_valid_item_and_a_thumbnail(source: Path, tmp_path: Path) -> None:
    result, item, picture = described(source, tmp_path)
    data = item["assets"]["data"]
    cog = Path(result["stac"]["path"]).parent / data["href"]
    assert data["file:size"] == cog.stat().st_size
    assert data["file:checksum"] == "1220" + sha256_of(cog)
    with rasterio.open(cog) as raster:
        assert item["properties"]["proj:shape"] == [raster.height, raster.width]
        assert item["properties"]["proj:transform"] == list(raster.transform)[:6]
        assert [band["data_type"] for band in data["bands"]] == list(raster.dtypes)
        code = item["properties"]["proj:code"]
        assert code == (":".join(raster.crs.to_authority()) if raster.crs.to_authority() else None)
        assert code or item["properties"]["proj:wkt2"]
    assert max(picture.size) <= 512
    assert picture.mode == "RGBA"
    assert ("bbox" in item) == (item["geometry"] is not None)


def test_the_item_of_the_sample(tmp_path: Path) -> None:
    _, item, _ = described(sample_raster(), tmp_path, item_id="bahamas", acquired="2001-02-03T04:05:06+01:00")
    assert item["id"] == "bahamas"
    assert item["properties"]["datetime"] == "2001-02-03T03:05:06Z"
    assert item["properties"]["proj:code"] == "EPSG:32618"
    band = item["assets"]["data"]["bands"][0]
    assert band["nodata"] == 0
    assert band["raster:spatial_resolution"] == pytest.approx(300.038, abs=0.001)
    with rasterio.open(sample_raster()) as raster:
        pixels = raster.read(1, masked=True)
    assert band["statistics"] == pytest.approx(
        {
            "minimum": pixels.min(),
            "maximum": pixels.max(),
            "mean": pixels.mean(dtype="float64"),
            "stddev": pixels.std(dtype="float64"),
            "valid_percent": 100 * pixels.count() / pixels.size,
        },
        rel=1e-3,
    )


def test_an_item_off_the_earth_has_no_geometry(tmp_path: Path) -> None:
    _, item, _ = described(RASTERS / "riotiler__cog_hirise_mars.tif", tmp_path)
    assert item["geometry"] is None
    assert "bbox" not in item


def test_an_item_across_the_antimeridian(tmp_path: Path) -> None:
    _, item, _ = described(RASTERS / "riotiler__cog_dateline.tif", tmp_path)
    assert item["bbox"][0] > item["bbox"][2]
    assert item["geometry"]["type"] == "MultiPolygon"


def test_nan_nodata_is_written_as_stac_writes_it(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", np.array([[[np.nan, 1.0]]], "float32"), nodata=np.nan)
    _, item, _ = described(source, tmp_path)
    assert item["assets"]["data"]["bands"][0]["nodata"] == "nan"


def test_when_nothing_is_valid_no_statistics_are_made_up(tmp_path: Path) -> None:
    _, item, picture = described(RASTERS / "rasterio__all-nodata.tif", tmp_path)
    for band in item["assets"]["data"]["bands"]:
        assert not {"minimum", "maximum", "mean", "stddev"} & set(band.get("statistics", {}))
    assert np.asarray(picture)[..., 3].max() == 0


def test_the_date_of_the_raster_itself(tmp_path: Path) -> None:
    source = write_raster(
        tmp_path / "a.tif", textured(1, 9, 9, "uint8"), tags={"TIFFTAG_DATETIME": "2019:07:21 10:11:12"}
    )
    _, item, _ = described(source, tmp_path)
    assert item["properties"]["datetime"] == "2019-07-21T10:11:12Z"
    assert item["properties"]["geoworker:datetime_source"] == "tag TIFFTAG_DATETIME"


def test_a_thumbnail_shows_colours_of_a_table_and_hides_nodata(tmp_path: Path) -> None:
    _, _, picture = described(RASTERS / "riocogeo__image_colormap.tif", tmp_path)
    with rasterio.open(RASTERS / "riocogeo__image_colormap.tif") as raster:
        table = {colour[:3] for colour in raster.colormap(1).values()}
    assert {tuple(colour) for colour in np.asarray(picture)[..., :3].reshape(-1, 3)} <= table
    _, _, picture = described(sample_raster(), tmp_path)
    alpha = np.asarray(picture)[..., 3]
    assert alpha[0, 0] == 0
    assert 0.6 < (alpha > 0).mean() < 0.75


def test_a_thumbnail_of_16_bits_uses_the_whole_range_of_greys(tmp_path: Path) -> None:
    pixels = (textured(1, 200, 200, "float64") * 3 + 9000).astype("uint16")
    pixels[0, 0, 0] = 65535
    _, _, picture = described(write_raster(tmp_path / "a.tif", pixels), tmp_path)
    grey = np.asarray(picture)[..., 0]
    assert grey.std() > 40


def test_a_thumbnail_of_terrain_is_shaded(tmp_path: Path) -> None:
    result, _, picture = described(RASTERS / "opengeos__dtm.tif", tmp_path)
    assert result["cog"]["raster_type"] == "dem"
    colours = np.asarray(picture)[..., :3].astype(int)
    assert np.ptp(colours, axis=2).mean() > 10
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 500


def test_a_thumbnail_has_north_up_and_the_shape_of_the_ground(tmp_path: Path) -> None:
    pixels = np.zeros((1, 100, 100), "uint8")
    pixels[:, :50] = 200
    pixels[:, 50:] = 10
    pixels += (np.indices((100, 100)).sum(0) % 40).astype("uint8")
    south_up = write_raster(tmp_path / "s.tif", pixels, transform=Affine(20, 0, 5e5, 0, 10, 5e6))
    _, _, picture = described(south_up, tmp_path, raster_type="single_band")
    grey = np.asarray(picture)[..., 0]
    assert picture.size == (200, 100) or picture.size[0] == 2 * picture.size[1]
    assert grey[: len(grey) // 2].mean() < grey[len(grey) // 2 :].mean()


def test_an_item_for_a_cog_that_was_made_elsewhere(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "other.tif", textured(3, 64, 64, "uint8"))
    context, _ = context_in(tmp_path)
    result = run_stac(CreateStacItem(cog_path=str(path)), context)
    assert result["stac"]["path"] == str(tmp_path / "other.json")
    assert result["thumbnail"]["path"] == str(tmp_path / "other.png")
