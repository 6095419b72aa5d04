"""What validate_raster finds in real and made rasters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import ColorInterp

from services.raster import sample_raster
from services.raster.parameters import ValidateRaster
from services.raster.steps import run_validation
from tests.raster_support import RASTERS, context_in, textured, write_raster


def inspect(path: Path, tmp_path: Path) -> dict[str, Any]:
    context, _ = context_in(tmp_path)
    found = run_validation(ValidateRaster(source_url=str(path)), context)
    json.dumps(found, allow_nan=False)
    return found


def test_the_sample_raster(tmp_path: Path) -> None:
    found = inspect(sample_raster(), tmp_path)
    assert found["success"] is True
    assert found["valid"] is True
    assert found["source_crs"] == "EPSG:32618"
    assert found["raster_type"]["detected_type"] == "rgb"
    assert found["raster_type"]["confidence"] == "VERY_HIGH"
    assert found["shape"] == [718, 791]
    assert found["band_count"] == 3
    assert found["dtype"] == "uint8"
    assert found["nodata"] == 0
    assert found["bounds"] == pytest.approx([101985.0, 2611485.0, 339315.0, 2826915.0])
    assert found["declared_bytes"] == 791 * 718 * 3
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("name", "kind", "warnings"),
    [
        ("opengeos__dtm.tif", "dem", set()),
        ("rasterio__RGBA.uint16.tif", "rgba", set()),
        ("rasterio__all-nodata.tif", "nir", {"ALL_NODATA"}),
        ("rasterio__goes.tif", "rgb", set()),
        ("rasterio__test_esri_wkt.tif", "single_band", {"NODATA_MISSING"}),
        ("rasterio__world.byte.tif", "categorical", {"NODATA_MISSING"}),
        ("riocogeo__image_51px.tif", "rgb", {"NODATA_MISSING"}),
        ("riocogeo__image_colormap.tif", "categorical", {"NODATA_MISSING"}),
        ("riocogeo__image_rgb_mask.tif", "rgb", set()),
        ("riocogeo__image_rgba_nodata.tif", "rgba", {"ALPHA_AND_NODATA"}),
        ("riotiler__cog_gcps.tif", "single_band", {"NODATA_MISSING", "GCP_ONLY"}),
        ("riotiler__cog_hirise_mars.tif", "rgb", {"NODATA_MISSING", "NOT_EARTH"}),
        ("riotiler__cog_scale_epsg4326.tif", "multispectral", set()),
        ("riotiler__inverted_lat.tif", "single_band", {"ALL_NODATA", "SOUTH_UP"}),
    ],
)
def test_real_rasters(name: str, kind: str, warnings: set[str], tmp_path: Path) -> None:
    found = inspect(RASTERS / name, tmp_path)
    assert found["raster_type"]["detected_type"] == kind
    assert {warning["code"] for warning in found["warnings"]} == warnings


RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@pytest.mark.parametrize(
    ("pixels", "options", "kind", "confidence"),
    [
        (textured(3, 60, 60, "uint8"), {}, "rgb", "VERY_HIGH"),
        (textured(3, 60, 60, "uint16"), {"colorinterp": RGB}, "rgb", "VERY_HIGH"),
        (textured(4, 60, 60, "uint8"), {"colorinterp": (*RGB, ColorInterp.alpha)}, "rgba", "VERY_HIGH"),
        (textured(4, 60, 60, "uint16"), {"colorinterp": (*RGB, ColorInterp.undefined)}, "nir", "HIGH"),
        (textured(4, 60, 60, "float32"), {"colorinterp": (ColorInterp.undefined,) * 4}, "multispectral", "MEDIUM"),
        (textured(8, 60, 60, "uint16"), {}, "multispectral", "HIGH"),
        (textured(2, 60, 60, "uint16"), {}, "multispectral", "LOW"),
        (textured(2, 60, 60, "uint8"), {"colorinterp": (ColorInterp.gray, ColorInterp.alpha)}, "single_band", "HIGH"),
        (np.indices((60, 60)).sum(0)[None].astype("uint8") % 7, {}, "categorical", "HIGH"),
        (np.indices((60, 60)).sum(0)[None].astype("int32") // 5, {}, "categorical", "MEDIUM"),
        (np.indices((90, 90)).sum(0)[None].astype("float32") * 10, {}, "dem", "HIGH"),
        (np.indices((90, 90)).sum(0)[None].astype("int16") * 10, {}, "dem", "MEDIUM"),
        (np.indices((90, 90)).sum(0)[None].astype("float32") * 1e6, {}, "single_band", "HIGH"),
        (np.full((1, 60, 60), 7, "uint8"), {}, "single_band", "LOW"),
    ],
)
def test_kinds(pixels: Any, options: dict[str, Any], kind: str, confidence: str, tmp_path: Path) -> None:
    found = inspect(write_raster(tmp_path / "a.tif", pixels, **options), tmp_path)
    assert (found["raster_type"]["detected_type"], found["raster_type"]["confidence"]) == (kind, confidence)


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("srtm_dem.tif", "int16", "dem"),
        ("city-DSM-2020.tif", "float32", "dem"),
        ("land_cover.tif", "uint8", "categorical"),
    ],
)
def test_a_name_is_a_hint(name: str, dtype: str, kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 200, (1, 60, 60)).astype(dtype)
    assert inspect(write_raster(tmp_path / name, pixels), tmp_path)["raster_type"]["detected_type"] == kind


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"transform": Affine(10, 0, 5e5, 0, -20, 5e6)}, "NON_SQUARE_PIXELS"),
        ({"transform": Affine(10, 3, 5e5, -3, -10, 5e6)}, "ROTATED"),
        ({"transform": Affine(10, 0, 5e5, 0, 10, 5e6)}, "SOUTH_UP"),
        ({"crs": "EPSG:4326", "transform": Affine(0.1, 0, 50, 0, -0.1, 120)}, "SUSPICIOUS_EXTENT"),
        ({"crs": "EPSG:4326", "transform": Affine(0.1, 0, 500_000, 0, -0.1, 50)}, "SUSPICIOUS_EXTENT"),
        ({"nodata": -9999.5, "dtype": "float64"}, "WIDE_DTYPE"),
    ],
)
def test_warnings(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    pixels = textured(1, 40, 40, options.pop("dtype", "uint16"))
    found = inspect(write_raster(tmp_path / "a.tif", pixels, **options), tmp_path)
    assert code in {warning["code"] for warning in found["warnings"]}


def test_a_nodata_value_that_the_pixels_cannot_have(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", textured(1, 40, 40, "float32"), nodata=-9999.5)
    content = path.read_bytes().replace(b"-9999.5", b"1e308  ")
    path.write_bytes(content)
    assert inspect(path, tmp_path)["valid"] is True


def test_only_a_sample_of_a_large_raster_is_read(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 5000, 5000), "uint8"), compress="deflate", tiled=True)
    found = inspect(path, tmp_path)
    assert found["bands"][0]["statistics_are_exact"] is False
    assert found["declared_bytes"] == 25_000_000
