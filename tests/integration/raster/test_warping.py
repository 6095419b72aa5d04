"""Reprojection: every pixel comes from where the exact transformation says, and kernels are GDAL's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from tests.raster_support import RASTERS, made_of, textured, write_raster

TILES = {"tiling_threshold_mb": 0, "tile_size": 512, "blocksize": 256}
BOTH_WAYS = pytest.mark.parametrize("how", [{}, TILES], ids=["one COG", "tiles"])
FEW = 1e-5

Floats = npt.NDArray[np.float64]
ToPixels = Callable[[Floats, Floats], tuple[Floats, Floats]]


def by_transform(given: DatasetReader) -> ToPixels:
    inverse = ~given.transform
    return lambda x, y: (
        inverse.a * x + inverse.b * y + inverse.c,
        inverse.d * x + inverse.e * y + inverse.f,
    )


def by_points(given: DatasetReader) -> ToPixels:
    """GDAL's polynomial, of the first order up to five points and of the second beyond, by least squares.

    Source: https://gdal.org/en/stable/programs/gdalwarp.html (-order) and GDALCreateGCPTransformer.
    """
    points, _ = given.gcps
    x, y = (np.array([getattr(point, name) for point in points]) for name in "xy")
    middle, size = (x.mean(), y.mean()), (np.ptp(x), np.ptp(y))

    def basis(x: Floats, y: Floats) -> Floats:
        u, v = (x - middle[0]) / size[0], (y - middle[1]) / size[1]
        terms = [np.ones_like(u), u, v] + ([u * u, u * v, v * v] if len(points) > 5 else [])
        return np.stack(terms, axis=-1)

    columns, rows = (
        np.linalg.lstsq(basis(x, y), np.array([getattr(point, name) for point in points]), rcond=None)[0]
        for name in ("col", "row")
    )
    return lambda x, y: (basis(x, y) @ columns, basis(x, y) @ rows)


def assert_each_pixel_is_the_nearest(source: Path, made: Path, to_pixels: Callable[[DatasetReader], ToPixels]) -> None:
    with rasterio.open(source) as given, rasterio.open(made) as warped:
        rows, columns = np.indices(warped.shape) + 0.5
        x, y = warped.transform @ (columns, rows)
        own = given.gcps[1] or given.crs
        x, y = Transformer.from_crs(warped.crs.to_wkt(), own.to_wkt(), always_xy=True).transform(x, y)
        at_column, at_row = (np.floor(each).astype(int) for each in to_pixels(given)(x, y))
        inside = (at_column >= 0) & (at_column < given.width) & (at_row >= 0) & (at_row < given.height)
        pixels, valid = given.read(), given.dataset_mask() > 0
        at = at_row.clip(0, given.height - 1), at_column.clip(0, given.width - 1)
        expected, expected_mask = pixels[:, *at], inside & valid[at]
        found, mask = warped.read(), warped.dataset_mask() > 0
    assert 0.3 < mask.mean() < 1
    assert (mask != expected_mask).mean() <= FEW
    assert (found != expected)[:, mask & expected_mask].mean() <= FEW


def scene(path: Path) -> Path:
    pixels = textured(1, 1300, 1100, "int16")
    pixels[:, :600, :640] = -9999
    return write_raster(path, pixels, nodata=-9999)


def placed_by_points(path: Path, each: int) -> Path:
    """A raster placed by ``each`` x ``each`` ground control points that are turned, and bent when there are many."""
    height, width = 1000, 900
    turned = Affine.translation(500_000, 5_000_000) @ Affine.rotation(12) @ Affine.scale(10, -10)
    points = []
    for row in np.linspace(0, height, each):
        for column in np.linspace(0, width, each):
            x, y = turned @ (column, row)
            bend = 0.0 if each == 2 else 200 * (column / width) * (row / height)
            points.append(GroundControlPoint(row=row, col=column, x=x + bend, y=y))
    size = {"width": width, "height": height, "count": 2, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", nodata=0, gcps=points, crs="EPSG:32633", **size) as raster:
        raster.write(textured(2, height, width, "uint16") + 1)
    return path


@BOTH_WAYS
@pytest.mark.parametrize("target", ["EPSG:4326", "EPSG:32634", "EPSG:3857"])
def test_each_pixel_is_the_nearest(target: str, how: dict[str, Any], tmp_path: Path) -> None:
    source = scene(tmp_path / "scene.tif")
    made = made_of(source, tmp_path, target_crs=target, resampling="nearest", **how)
    assert_each_pixel_is_the_nearest(source, made, by_transform)


@BOTH_WAYS
@pytest.mark.parametrize("target", [None, "EPSG:4326"])
@pytest.mark.parametrize("each", [2, 5])
def test_ground_control_points_place_each_pixel(
    each: int, target: str | None, how: dict[str, Any], tmp_path: Path
) -> None:
    source = placed_by_points(tmp_path / "scene.tif", each)
    made = made_of(source, tmp_path, target_crs=target, resampling="nearest", **how)
    assert_each_pixel_is_the_nearest(source, made, by_points)


@BOTH_WAYS
def test_a_real_raster_with_ground_control_points(how: dict[str, Any], tmp_path: Path) -> None:
    source = RASTERS / "riotiler__cog_gcps.tif"
    made = made_of(source, tmp_path, resampling="nearest", **how)
    assert_each_pixel_is_the_nearest(source, made, by_points)


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode"])
@pytest.mark.parametrize(
    ("points", "how"), [(False, {}), (False, TILES), (True, TILES)], ids=["one COG", "tiles", "tiles placed by points"]
)
def test_every_kernel_is_gdals(resampling: str, *, points: bool, how: dict[str, Any], tmp_path: Path) -> None:
    """On all but a hundred-thousandth of the pixels, and there within one count, unless a kernel picks pixels."""
    source = placed_by_points(tmp_path / "scene.tif", 5) if points else scene(tmp_path / "scene.tif")
    made = made_of(source, tmp_path, target_crs="EPSG:4326", resampling=resampling, **how)
    with (
        rasterio.open(source) as given,
        rasterio.open(made) as warped,
        WarpedVRT(
            given, crs="EPSG:4326", nodata=given.nodata, resampling=Resampling[resampling], tolerance=1e-9
        ) as exactly,
    ):
        assert warped.transform.almost_equals(exactly.transform, 1e-12)
        found, expected = warped.read(), exactly.read()
    differs = found != expected
    assert differs.mean() <= FEW
    assert resampling == "mode" or np.abs(found[differs].astype(int) - expected[differs]).max(initial=0) <= 1


@BOTH_WAYS
@pytest.mark.parametrize("crs", ["EPSG:23032", "EPSG:26710", "EPSG:27700"])
def test_the_datum_shift_is_that_of_the_place(crs: str, how: dict[str, Any], tmp_path: Path) -> None:
    """PROJ knows several from ED50 and from NAD27, metres apart; GDAL takes the one for where the raster lies."""
    place = {"EPSG:23032": (500_000, 5_300_000), "EPSG:26710": (550_000, 4_200_000), "EPSG:27700": (530_000, 180_000)}
    pixels = textured(1, 700, 600, "uint16") + 1
    transform = Affine.translation(*place[crs]) @ Affine.scale(1, -1)
    source = write_raster(tmp_path / "scene.tif", pixels, crs=crs, transform=transform, nodata=0)
    made = made_of(source, tmp_path, target_crs="EPSG:4326", resampling="nearest", **how)
    with (
        rasterio.open(source) as given,
        rasterio.open(made) as warped,
        WarpedVRT(given, crs="EPSG:4326", tolerance=1e-9) as exactly,
    ):
        assert (warped.read() != exactly.read()).mean() <= FEW


@BOTH_WAYS
@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("float32", float("nan"))])
def test_what_one_band_lacks_is_not_mixed_into_it(
    dtype: str, nodata: float, resampling: str, how: dict[str, Any], tmp_path: Path
) -> None:
    pixels = np.empty((2, 600, 500), dtype)
    pixels[0], pixels[1] = 200, 100
    pixels[:, :200, :200] = nodata
    pixels[0, 300:400, 200:300] = nodata
    source = write_raster(tmp_path / "holes.tif", pixels, nodata=nodata)
    parameters = {"target_crs": "EPSG:4326", "resampling": resampling, "raster_type": "multispectral"}
    with rasterio.open(made_of(source, tmp_path, **parameters, **how)) as made:
        masks, found = made.read_masks() > 0, made.read()
    assert np.unique(found[0][masks[0]]) == pytest.approx([200])
    assert np.unique(found[1][masks[1]]) == pytest.approx([100])
    only_in_the_second = masks[1] & ~masks[0]
    assert only_in_the_second.sum() == pytest.approx(100 * 100, rel=0.05)


@BOTH_WAYS
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
@pytest.mark.parametrize(
    "around",
    [
        ("int16", -9999, 1),
        ("uint16", 500, 1),
        ("uint8", 0, 1),
        ("uint8", 255, 3),
        ("int16", -9999, 2),
        ("uint16", 0, 2),
        ("int32", 5, 1),
        ("float32", -9999.0, 1),
        ("float64", float("nan"), 2),
    ],
)
def test_what_a_kernel_makes_of_valid_pixels_is_never_nodata(
    around: tuple[str, float, int], resampling: str, how: dict[str, Any], tmp_path: Path
) -> None:
    """Values lie around the nodata value, so that means of them often are it; GDAL then takes the next."""
    dtype, nodata, bands = around
    away = np.array([-3, -2, -1, 1, 2, 3]) + (0 if np.isnan(nodata) else nodata)
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        away = away[(away >= limits.min) & (away <= limits.max)]
    pixels = np.random.default_rng(7).choice(away, (bands, 600, 500)).astype(dtype)
    pixels[:, :200, :200] = nodata
    source = write_raster(tmp_path / "near.tif", pixels, nodata=nodata)
    parameters = {"target_crs": "EPSG:4326", "resampling": resampling, "raster_type": "multispectral"}
    with (
        rasterio.open(source) as given,
        rasterio.open(made_of(source, tmp_path, **parameters, **how)) as made,
        WarpedVRT(
            given,
            crs="EPSG:4326",
            nodata=nodata,
            resampling=Resampling[resampling],
            tolerance=1e-9,
            UNIFIED_SRC_NODATA="PARTIAL",
        ) as exactly,
    ):
        masks = made.read_masks() > 0
        np.testing.assert_array_equal(masks, exactly.read_masks() > 0)
        apart = np.abs(made.read()[masks].astype(float) - exactly.read()[masks])
        assert (apart > (1e-3 if dtype.startswith("f") else 0)).mean() <= FEW
