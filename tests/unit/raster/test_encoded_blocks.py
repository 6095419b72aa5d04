"""What is encoded is decoded again before it counts: damage is found, in every row and column of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from services.raster import encode
from services.raster.cog_options import CogOptions
from services.raster.description import Layout
from services.raster.encode import encoded
from services.raster.errors import RasterError
from services.raster.gdal import gdal_environment
from services.raster.parameters import Compression, Resampling, Verification
from services.raster.pixels import Pixels

BLOCK = 128
ROWS, COLUMNS = 5, 3
HEIGHT, WIDTH = ROWS * BLOCK - 40, COLUMNS * BLOCK - 30


def encode_with_damage(
    monkeypatch: pytest.MonkeyPatch, windows: list[Window], *, verification: Verification, mask: bool = False
) -> None:
    """Encode noise; what GDAL has written is changed in ``windows`` before it is looked at again."""
    compress = encode._compress

    def damaging(name: str, pixels: Pixels, layout: Layout, creation: Mapping[str, Any]) -> None:
        compress(name, pixels, layout, creation)
        with rasterio.open(name, "r+") as file:
            for window in windows:
                if mask:
                    file.write_mask(np.zeros((1, 1), np.uint8), window=window)
                else:
                    file.write(file.read(window=window) ^ 1, window=window)

    monkeypatch.setattr(encode, "_compress", damaging)
    encode_noise(verification=verification, mask=mask)


def encode_noise(*, verification: Verification, mask: bool, threads: int = 1) -> None:
    """Encode two bands of noise and let go of them."""
    values = np.random.default_rng(5).integers(0, 255, (2, HEIGHT, WIDTH), dtype=np.uint8)
    pixels = Pixels(values, np.ones((HEIGHT, WIDTH), dtype=bool) if mask else None)
    layout = Layout(
        width=WIDTH, height=HEIGHT, count=2, dtype="uint8", crs=None, transform=Affine.identity(), nodata=None,
        masked=mask, alpha=None,
    )  # fmt: skip
    options = CogOptions(
        compression=Compression.DEFLATE, quality=85, predictor=2, level=1, colours=False,
        resampling=Resampling.NEAREST, overview_resampling=Resampling.NEAREST, blocksize=BLOCK,
        verification=verification,
    )  # fmt: skip
    with gdal_environment(), encoded(iter([pixels]), layout, options, blocks=[BLOCK], threads=threads) as made:
        assert made.levels[0].width == WIDTH


def pixel_of(row: int, column: int) -> Window:
    """One pixel in the block of that row and column of blocks."""
    return Window(column * BLOCK + 7, row * BLOCK + 9, 1, 1)


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("verification", list(Verification))
@pytest.mark.parametrize("mask", [False, True])
def test_what_is_sound_passes(monkeypatch: pytest.MonkeyPatch, verification: Verification, *, mask: bool) -> None:
    encode_with_damage(monkeypatch, [], verification=verification, mask=mask)


@pytest.mark.parametrize("row", range(ROWS))
@pytest.mark.parametrize("column", range(COLUMNS))
def test_every_block_is_every_block(monkeypatch: pytest.MonkeyPatch, row: int, column: int) -> None:
    with pytest.raises(RasterError, match="decoded pixels differ"):
        encode_with_damage(monkeypatch, [pixel_of(row, column)], verification=Verification.EVERY_BLOCK)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    "blocks",
    [
        *([(row, column) for column in range(COLUMNS)] for row in range(ROWS)),
        *([(row, column) for row in range(ROWS)] for column in range(COLUMNS)),
        [(0, 0)],
        [(ROWS - 1, COLUMNS - 1)],
    ],
)
def test_a_sample_meets_every_row_and_column_of_blocks_the_first_block_and_the_last(
    monkeypatch: pytest.MonkeyPatch, blocks: list[tuple[int, int]], *, mask: bool
) -> None:
    damage = [pixel_of(row, column) for row, column in blocks]
    with pytest.raises(RasterError, match="decoded pixels differ"):
        encode_with_damage(monkeypatch, damage, verification=Verification.SAMPLE, mask=mask)


def test_a_sample_is_not_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    encode_with_damage(monkeypatch, [pixel_of(0, 1)], verification=Verification.SAMPLE)


def test_a_mask_does_not_disturb_what_threads_compress(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(150):
        encode_noise(verification=Verification.SAMPLE, mask=True, threads=2)
    assert "ERROR" not in capfd.readouterr().err
