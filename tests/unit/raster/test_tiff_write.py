"""COGs put together from compressed blocks read as GDAL's own do, in both TIFF and BigTIFF."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio

from services.raster import tiff_write
from services.raster.tiff_write import Blocks, Level, read_directories, write_cog
from tests.raster_support import textured, write_raster

BLOCK = 128


def source(tmp_path: Path) -> Path:
    return write_raster(
        tmp_path / "a.tif",
        textured(3, 300, 420, "uint16"),
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
        interleave="pixel",
        nodata=7,
    )


@pytest.mark.parametrize("limit", [2**32 - 2**20, 1], ids=["classic", "big"])
def test_blocks_are_moved_unchanged(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_write, "_CLASSIC_LIMIT", limit)
    content = source(tmp_path).read_bytes()
    [main] = read_directories(content)
    out = tmp_path / "b.tif"
    level = Level(420, 300, BLOCK, Blocks.of(main))
    written = write_cog(out, main, [level], lambda _, offset, size: content[offset : offset + size])
    assert out.stat().st_size == written.size
    assert struct.unpack_from("<H", out.read_bytes(), 2)[0] == (43 if limit == 1 else 42)
    with rasterio.open(tmp_path / "a.tif") as given, rasterio.open(out) as cog:
        np.testing.assert_array_equal(cog.read(), given.read())
        assert (cog.crs, cog.transform, cog.nodata) == (given.crs, given.transform, 7)
        assert cog.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_blocks_without_content_read_as_nodata(tmp_path: Path) -> None:
    content = source(tmp_path).read_bytes()
    [main] = read_directories(content)
    level = Level(420, 300, BLOCK, Blocks.none(len(Blocks.of(main).sizes)))
    write_cog(tmp_path / "b.tif", main, [level], lambda *_: b"")
    with rasterio.open(tmp_path / "b.tif") as cog:
        assert (cog.read() == 7).all()
        assert not cog.read_masks().any()


def test_what_is_no_tiff_is_refused() -> None:
    with pytest.raises(ValueError, match="TIFF"):
        read_directories(b"PK\3\4 nothing")
