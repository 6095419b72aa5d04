"""Reprojection by polynomials: they are as near as asked for, cover every pixel once, and are left where none fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from services.raster.places import LocalPlaces, can_be_placed_by_polynomials
from services.raster.profile import Profile, read_profile
from services.raster.tile_grid import Box
from tests.raster_support import made_of, textured, write_raster

ALPINE = {"crs": "EPSG:32633", "place": (300_000, 5_400_000)}
POLAR = {"crs": "EPSG:3413", "place": (-20_000, 20_000)}


def scene(path: Path, pixels: Any, *, crs: str, place: tuple[float, float], size: float, **options: Any) -> Path:
    across = Affine.translation(*place) @ Affine.scale(size, -size)
    return write_raster(path, pixels, crs=crs, transform=across, **options)


def profile_of(path: Path) -> Profile:
    with rasterio.open(path) as source:
        return read_profile(source, input_crs=None, file_bytes=path.stat().st_size)


def warped(source: Path, tmp_path: Path, resampling: str) -> Path:
    return made_of(source, tmp_path, target_crs="EPSG:4326", resampling=resampling)


@pytest.mark.parametrize(("size", "fewest", "most"), [(0.005, 1, 1), (0.5, 1, 1), (10.0, 2, 32), (30.0, 8, 256)])
def test_parts_are_cut_until_polynomials_are_near_enough(size: float, fewest: int, most: int, tmp_path: Path) -> None:
    path = scene(tmp_path / "scene.tif", np.zeros((1, 3000, 2500), np.uint8), size=size, **ALPINE)
    with rasterio.open(path) as source, WarpedVRT(source, crs="EPSG:4326") as view:
        places = LocalPlaces.of(view, source, source.crs, nodata=None, tolerance=1e-7)
        box = Box(100, 50, view.height - 150, view.width - 90)
        parts = list(places.parts(box))
    covered = np.zeros((box.top + box.height, box.left + box.width), int)
    for part in parts:
        here = part.box
        covered[here.top : here.top + here.height, here.left : here.left + here.width] += 1
        assert part.document is not None
    assert (covered[box.top :, box.left :] == 1).all()
    assert covered.sum() == box.height * box.width
    assert fewest <= len(parts) <= most


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("size", [2.0, 30.0, 300.0])
def test_every_part_is_as_gdal_warps_it_exactly(size: float, resampling: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(-1000, 1000, (1, 900, 1000)).astype("int16")
    pixels[:, 300:500, 200:600] = -32768
    source = scene(tmp_path / "scene.tif", pixels, size=size, nodata=-32768, **ALPINE)
    with (
        rasterio.open(source) as given,
        rasterio.open(warped(source, tmp_path, resampling)) as made,
        WarpedVRT(given, crs="EPSG:4326", resampling=Resampling[resampling], tolerance=1e-9) as exactly,
    ):
        assert (made.read() != exactly.read()).mean() <= 1e-5


def test_where_no_polynomial_fits_gdal_places_pixels_itself(tmp_path: Path) -> None:
    """Around the pole longitudes meet."""
    pixels = textured(1, 800, 900, "uint16") + 1
    source = scene(tmp_path / "pole.tif", pixels, size=50.0, nodata=0, **POLAR)
    with rasterio.open(source) as given, WarpedVRT(given, crs="EPSG:4326") as view:
        assert can_be_placed_by_polynomials(given, profile_of(source), view.crs)
        places = LocalPlaces.of(view, given, given.crs, nodata=0, tolerance=1e-6)
        kinds = {part.document is None for part in places.parts(Box(0, 0, view.height, view.width))}
    with (
        rasterio.open(source) as given,
        rasterio.open(warped(source, tmp_path, "nearest")) as made,
        WarpedVRT(given, crs="EPSG:4326", tolerance=1e-9) as exactly,
    ):
        assert (made.read() != exactly.read()).mean() <= 1e-5
    assert True in kinds


def test_only_rasters_with_one_way_to_the_target_are_placed_by_polynomials(tmp_path: Path) -> None:
    def allowed(crs: str, target: str, name: str = "scene.tif") -> bool:
        path = scene(tmp_path / name, np.zeros((1, 20, 20), np.uint8), crs=crs, place=(500_000, 5_000_000), size=10.0)
        profile = profile_of(path)
        with rasterio.open(path) as source:
            return can_be_placed_by_polynomials(source, profile, rasterio.CRS.from_string(target))

    assert allowed("EPSG:32633", "EPSG:4326")
    assert allowed("EPSG:32633", "EPSG:3857")
    assert allowed("EPSG:25832", "EPSG:3035")
    assert not allowed("EPSG:25832", "EPSG:4326")
    assert not allowed("EPSG:23032", "EPSG:4326")


def test_a_nodata_value_of_17_digits_stays_out_of_the_pixels(tmp_path: Path) -> None:
    nodata = -1.7976931348623157e308
    pixels = np.ones((1, 400, 300))
    pixels[:, 100:200, 100:200] = nodata
    source = scene(tmp_path / "digits.tif", pixels, size=10.0, nodata=nodata, **ALPINE)
    with rasterio.open(warped(source, tmp_path, "bilinear")) as made:
        found, mask = made.read(1), made.read_masks(1) > 0
    assert 0.5 < mask.mean() < 0.95
    assert found[mask] == pytest.approx(1.0, abs=1e-3)


def test_exact_places_are_gdals_own(tmp_path: Path) -> None:
    """A part's points, seen through its document, lie where GDAL's transformation puts them."""
    values = np.arange(500, dtype="float64")
    source = scene(tmp_path / "columns.tif", np.tile(values, (400, 1))[None], size=30.0, nodata=-1, **ALPINE)
    with rasterio.open(source) as given, rasterio.open(warped(source, tmp_path, "bilinear")) as made:
        rows, columns = np.mgrid[100:300:20, 150:350:20]
        x, y = made.transform @ (columns.ravel() + 0.5, rows.ravel() + 0.5)
        there, _ = transform(made.crs, given.crs, x, y)[:2]
        expected = (np.array(there) - given.transform.c) / given.transform.a - 0.5
        found = made.read(1)[rows.ravel(), columns.ravel()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
