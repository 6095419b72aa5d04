"""Bands of a VRT that differ in type or nodata: the COG has one of each, and each pixel its value and validity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from core.errors import PermanentError
from services.raster.complete import process
from services.raster.parameters import ProcessRaster
from tests.raster_support import context_in, textured, write_raster

GDAL_TYPES = {"uint8": "Byte", "int16": "Int16", "int64": "Int64", "float32": "Float32"}
Band = tuple[npt.NDArray[Any], float | None]


def band(dtype: str, seed: int, nodata: float | None, *, hole: slice) -> Band:
    pixels = textured(1, 64, 80, dtype, seed)[0]
    pixels = np.where(pixels == 0, 1, pixels).astype(dtype)
    if nodata is not None:
        pixels[hole] = nodata
    return pixels, nodata


def stacked(home: Path, *bands: Band) -> Path:
    """A VRT with those bands, each from a file of its own."""
    text = ""
    for number, (pixels, nodata) in enumerate(bands, start=1):
        write_raster(home / f"{number}.tif", pixels[None])
        value = "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>"
        text += (
            f'<VRTRasterBand dataType="{GDAL_TYPES[pixels.dtype.name]}" band="{number}">{value}<SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{number}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand>"
        )
    path = home / "stack.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="80" rasterYSize="64"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{text}</VRTDataset>"
    )
    return path


def made_of(source: Path, tmp_path: Path, **parameters: Any) -> dict[str, Any]:
    context, _ = context_in(tmp_path)
    given = ProcessRaster(source_url=str(source), output_dir=str(tmp_path / "out"), **parameters)
    made: dict[str, Any] = process(given, context)
    return made


def valid(pixels: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_]:
    if nodata is None:
        return np.ones(pixels.shape, bool)
    return ~np.isnan(pixels) if np.isnan(nodata) else pixels != nodata


TOP, LEFT = np.s_[:10], np.s_[:, :10]
STACKS: dict[str, tuple[list[Band], str, float, set[str]]] = {
    "two nodata values": (
        [band("uint8", 1, 0, hole=TOP), band("uint8", 2, 255, hole=LEFT)],
        "uint8",
        0,
        {"NODATA_DIFFERS"},
    ),
    "two types": (
        [band("uint8", 1, 0, hole=TOP), band("float32", 2, -9999.0, hole=LEFT)],
        "float32",
        0,
        {"NODATA_DIFFERS", "MIXED_DTYPES"},
    ),
    "not a number": (
        [band("float32", 1, float("nan"), hole=TOP), band("int16", 2, -1, hole=LEFT)],
        "float32",
        float("nan"),
        {"NODATA_DIFFERS", "MIXED_DTYPES"},
    ),
    "one without": (
        [band("int16", 1, None, hole=TOP), band("int16", 2, -1, hole=LEFT)],
        "int16",
        -1,
        {"NODATA_DIFFERS"},
    ),
    "two types, one nodata value": (
        [band("uint8", 1, 0, hole=TOP), band("int16", 2, 0, hole=LEFT)],
        "int16",
        0,
        {"MIXED_DTYPES"},
    ),
}


@pytest.mark.parametrize(("bands", "dtype", "nodata", "warnings"), STACKS.values(), ids=STACKS)
def test_bands_are_made_alike(bands: list[Band], dtype: str, nodata: float, warnings: set[str], tmp_path: Path) -> None:
    made = made_of(stacked(tmp_path, *bands), tmp_path)
    codes = {warning["code"] for warning in made["validation"]["warnings"]}
    assert codes & {"NODATA_DIFFERS", "MIXED_DTYPES"} == warnings
    with rasterio.open(made["cog"]["path"]) as cog:
        assert set(cog.dtypes) == {dtype}
        np.testing.assert_equal(cog.nodatavals, (nodata, nodata))
        for number, (pixels, own) in enumerate(bands, start=1):
            shown = valid(pixels, own)
            np.testing.assert_array_equal(cog.read_masks(number) > 0, shown)
            np.testing.assert_array_equal(cog.read(number)[shown], pixels[shown])


def test_nodata_of_one_band_does_not_bleed_into_it_when_warped(tmp_path: Path) -> None:
    high = np.full((64, 80), 200, "uint8")
    one, other = high.copy(), high.copy()
    one[TOP], other[LEFT] = 0, 255
    made = made_of(stacked(tmp_path, (one, 0), (other, 255)), tmp_path, target_crs="EPSG:4326", resampling="bilinear")
    with rasterio.open(made["cog"]["path"]) as cog:
        for number in (1, 2):
            shown = cog.read_masks(number) > 0
            assert 0.7 < shown.mean() < 0.95
            assert set(np.unique(cog.read(number)[shown])) == {200}


def test_types_without_a_common_one_are_refused(tmp_path: Path) -> None:
    bands = [band("int64", 1, None, hole=TOP), band("float32", 2, None, hole=TOP)]
    with pytest.raises(PermanentError) as caught:
        made_of(stacked(tmp_path, *bands), tmp_path)
    assert caught.value.code == "UNSUPPORTED_DTYPE"
    assert "float32, int64" in str(caught.value)


def test_a_nodata_value_that_no_pixel_can_have_is_not_the_shared_one(tmp_path: Path) -> None:
    one, other = band("uint8", 1, None, hole=TOP), band("uint8", 2, 255, hole=LEFT)
    made = made_of(stacked(tmp_path, (one[0], -9999.0), other), tmp_path)
    with rasterio.open(made["cog"]["path"]) as cog:
        assert cog.nodatavals == (255, 255)
        np.testing.assert_array_equal(cog.read_masks(2) > 0, valid(*other))
