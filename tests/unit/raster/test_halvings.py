"""Overviews: a mask that hides nothing changes nothing, whatever the kernel and the type of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine

from services.raster.description import Layout
from services.raster.encode import halvings
from services.raster.gdal import gdal_environment
from services.raster.parameters import Resampling
from services.raster.pixels import Pixels
from services.raster.tile_grid import Box

HEIGHT, WIDTH = 75, 102


def noise(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    if dtype.startswith("float"):
        return rng.normal(0, 1e3, (2, HEIGHT, WIDTH)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (2, HEIGHT, WIDTH), dtype=dtype, endpoint=True)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("how", list(Resampling))
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_a_mask_that_hides_nothing_changes_no_overview(dtype: str, how: Resampling) -> None:
    values = noise(dtype)
    hole = np.ones((HEIGHT, WIDTH), dtype=bool)
    hole[0, 0] = False  # far from the corner that is compared below
    layout = Layout(
        width=WIDTH, height=HEIGHT, count=2, dtype=dtype, crs=None, transform=Affine.identity(), nodata=None,
        masked=True, alpha=None,
    )  # fmt: skip
    whole = Box(0, 0, HEIGHT, WIDTH)
    with gdal_environment():
        full = list(halvings(Pixels(values, np.ones_like(hole)), whole, layout, how, 2))
        holed = list(halvings(Pixels(values, hole), whole, layout, how, 2))
    for level, (one, other) in enumerate(zip(full, holed, strict=True)):
        assert one.mask is not None
        assert one.mask.all()
        far = 16 >> level
        exact = np.dtype(dtype).kind in "iu"  # GDAL adds floats up in another order
        bounds = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-3}
        np.testing.assert_allclose(one.values[:, far:, far:], other.values[:, far:, far:], **bounds)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_average_is_that_of_the_valid_pixels_wherever_the_mask_is_full_or_not() -> None:
    height, width = 1100, 1600
    values = np.random.default_rng(3).integers(0, 255, (2, height, width), dtype=np.uint8, endpoint=True)
    mask = np.ones((height, width), dtype=bool)
    mask[500:530, 100:777] = False
    mask[700:, :300] = np.random.default_rng(4).random((400, 300)) < 0.5
    layout = Layout(
        width=width, height=height, count=2, dtype="uint8", crs=None, transform=Affine.identity(), nodata=None,
        masked=True, alpha=None,
    )  # fmt: skip
    with gdal_environment():
        [_, half] = halvings(Pixels(values, mask), Box(0, 0, height, width), layout, Resampling.AVERAGE, 1)
    squares = mask.reshape(height // 2, 2, width // 2, 2)
    valid = squares.sum(axis=(1, 3))
    total = (values.reshape(2, *squares.shape) * squares).sum(axis=(2, 4), dtype=np.int64)
    assert half.mask is not None
    np.testing.assert_array_equal(half.mask, valid > 0)
    expected = (2 * total + valid) // np.maximum(2 * valid, 1)
    np.testing.assert_array_equal(half.values[:, valid > 0], expected[:, valid > 0])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("how", [Resampling.NEAREST, Resampling.MODE, Resampling.AVERAGE])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_an_overview_is_the_same_made_at_once_or_in_parts(dtype: str, how: Resampling) -> None:
    top = noise(dtype)
    values = np.concatenate([np.tile(top[:, :64], (1, 24, 1)), top], axis=1)  # 1611 rows
    layout = Layout(
        width=WIDTH, height=values.shape[1], count=2, dtype=dtype, crs=None, transform=Affine.identity(), nodata=None,
        masked=False, alpha=None,
    )  # fmt: skip

    def halved(pixels: np.ndarray) -> np.ndarray:
        [_, half] = halvings(Pixels(pixels, None), Box(0, 0, pixels.shape[1], WIDTH), layout, how, 1)
        return np.asarray(half.values)

    with gdal_environment():
        slices = [halved(values[:, row : row + 64]) for row in range(0, values.shape[1], 64)]
        np.testing.assert_array_equal(halved(values), np.concatenate(slices, axis=1))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("how", [Resampling.MODE, Resampling.AVERAGE])
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 255), ("int16", -9999), ("float32", float("nan")), ("float64", -1e30)]
)
def test_an_overview_is_without_data_where_all_of_its_pixels_are(dtype: str, nodata: float, how: Resampling) -> None:
    values = np.full((2, HEIGHT, WIDTH), 7, dtype)
    values[0, 10:30, 20:41] = nodata
    values[1, 70:, 90:] = nodata
    layout = Layout(
        width=WIDTH, height=HEIGHT, count=2, dtype=dtype, crs=None, transform=Affine.identity(), nodata=nodata,
        masked=False, alpha=None,
    )  # fmt: skip
    expected = np.full((2, 38, 51), 7, dtype)
    expected[0, 5:15, 10:20] = nodata
    expected[1, 35:, 45:] = nodata
    with gdal_environment():
        [_, half] = halvings(Pixels(values, None), Box(0, 0, HEIGHT, WIDTH), layout, how, 1)
    np.testing.assert_array_equal(half.values, expected)
