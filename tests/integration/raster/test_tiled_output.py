"""Tiled output: the mosaic has the pixels that one COG has, every tile is a COG, and a killed task goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rio_cogeo.cogeo import cog_validate

from core.handlers import HandlerRegistry
from services.raster.outputs import sha256_of
from services.raster.registry import HANDLERS
from tests.raster_support import MemoryCheckpoint, context_in, textured, write_raster

HANDLER = HandlerRegistry(HANDLERS)["process_raster_complete"]


def run(source: Path, tmp_path: Path, *, checkpoint: MemoryCheckpoint | None = None, **parameters: Any) -> Any:
    context, _ = context_in(tmp_path, checkpoint=checkpoint)
    given = {"source_url": str(source), "output_dir": str(tmp_path / "out"), "tile_size": 512, "blocksize": 256}
    return HANDLER.call({**given, "tiling_threshold_mb": 0, **parameters}, context)


def whole(source: Path, tmp_path: Path, **parameters: Any) -> Any:
    return run(source, tmp_path / "whole", tiling_threshold_mb=1000, **parameters)


def assert_same_pixels(tiled: Any, one: Any) -> None:
    with rasterio.open(tiled["mosaic"]["path"]) as mosaic, rasterio.open(one["cog"]["path"]) as cog:
        assert (mosaic.crs, mosaic.shape, mosaic.dtypes) == (cog.crs, cog.shape, cog.dtypes)
        assert mosaic.transform.almost_equals(cog.transform, 1e-9)
        np.testing.assert_array_equal(mosaic.read(), cog.read())
        np.testing.assert_array_equal(mosaic.read_masks(), cog.read_masks())
        assert (mosaic.colorinterp, mosaic.descriptions) == (cog.colorinterp, cog.descriptions)
        np.testing.assert_equal(mosaic.nodatavals, cog.nodatavals)


def scene(tmp_path: Path, dtype: str = "uint8", count: int = 3, **options: Any) -> Path:
    pixels = textured(count, 1300, 1100, dtype)
    nodata = options.get("nodata")
    if nodata is not None:
        pixels[:, :600, :640] = nodata
        pixels[:, 900:910, 300:1000] = nodata
    return write_raster(tmp_path / "scene.tif", pixels, **options)


@pytest.mark.parametrize(
    ("dtype", "count", "options"),
    [("uint8", 3, {}), ("int16", 1, {"nodata": -9999}), ("float32", 2, {"nodata": float("nan")}), ("uint8", 1, {})],
    ids=["rgb", "terrain", "floats", "grey"],
)
def test_the_mosaic_has_the_pixels_of_one_cog(dtype: str, count: int, options: dict[str, Any], tmp_path: Path) -> None:
    source = scene(tmp_path, dtype, count, **options)
    tiled = run(source, tmp_path)
    json.dumps(tiled, allow_nan=False)
    assert set(tiled) == {"success", "validation", "tiles", "mosaic", "overview", "stac", "thumbnail"}
    assert (tiled["tiles"]["rows"], tiled["tiles"]["columns"], tiled["tiles"]["count"]) == (3, 3, 9)
    assert tiled["tiles"]["without_data"] == (1 if "nodata" in options else 0)
    one = whole(source, tmp_path)
    assert_same_pixels(tiled, one)
    if dtype == "float32":
        for mine, other in zip(tiled["tiles"]["statistics"], one["cog"]["statistics"], strict=True):
            assert mine == pytest.approx(other, rel=1e-12)
    else:
        assert tiled["tiles"]["statistics"] == one["cog"]["statistics"]
        assert tiled["tiles"]["histograms"] == one["cog"]["histograms"]
    with rasterio.open(source) as given, rasterio.open(tiled["mosaic"]["path"]) as mosaic:
        np.testing.assert_array_equal(given.read(), mosaic.read())


def test_a_mask_and_an_alpha_band_are_kept(tmp_path: Path) -> None:
    masked = scene(tmp_path)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as raster:
        mask = np.full(raster.shape, 255, np.uint8)
        mask[400:800, 500:] = 0
        raster.write_mask(mask)
    assert_same_pixels(run(masked, tmp_path / "a"), whole(masked, tmp_path / "a"))
    pixels = textured(4, 1300, 1100, "uint8")
    pixels[3] = np.where(np.arange(1100) < 700, 255, 0)
    pixels[:3, :, 700:] = 0
    names = ("red", "green", "blue", "alpha")
    alpha = write_raster(
        tmp_path / "alpha.tif", pixels, colorinterp=[rasterio.enums.ColorInterp[name] for name in names]
    )
    assert_same_pixels(run(alpha, tmp_path / "b"), whole(alpha, tmp_path / "b"))


def test_categories_keep_their_colours_and_stay_categories(tmp_path: Path) -> None:
    pixels = (np.indices((1300, 1100)).sum(axis=0) // 37 % 5 * 50).astype("uint8")[None]
    source = write_raster(tmp_path / "classes.tif", pixels)
    colours = {value: (value, 255 - value, 7, 255) for value in range(0, 250, 50)}
    with rasterio.open(source, "r+") as raster:
        raster.write_colormap(1, colours)
    tiled = run(source, tmp_path)
    assert_same_pixels(tiled, whole(source, tmp_path))
    for path in (tiled["mosaic"]["path"], tiled["overview"]["path"]):
        with rasterio.open(path) as raster:
            assert {value: raster.colormap(1)[value] for value in colours} == colours
            assert set(np.unique(raster.read(1))) <= set(colours)


def test_every_tile_is_a_cog_with_an_item_and_a_checksum(tmp_path: Path) -> None:
    tiled = run(scene(tmp_path, "int16", 1, nodata=-9999), tmp_path)
    collection = pystac.Collection.from_file(tiled["stac"]["path"])
    items = list(collection.get_items())
    assert len(items) == tiled["stac"]["items"] == 8
    for item in items:
        path = Path(item.get_self_href()).parent / item.assets["data"].href
        assert cog_validate(str(path), strict=True, quiet=True)[0]
        assert item.assets["data"].extra_fields["file:checksum"] == "1220" + sha256_of(path)
        assert item.assets["data"].extra_fields["bands"][0]["statistics"]["maximum"] > 0
    for name in ("mosaic", "overview"):
        path = Path(tiled["stac"]["path"]).parent / collection.assets[name].href
        assert collection.assets[name].extra_fields["file:checksum"] == "1220" + sha256_of(path)
        assert tiled[name]["sha256"] == sha256_of(path)
    histogram = collection.assets["mosaic"].extra_fields["bands"][0]["raster:histogram"]
    assert sum(histogram["buckets"]) == 1300 * 1100 - 600 * 640 - 10 * 700


@pytest.mark.parametrize("resampling", ["average", "nearest", "cubic"])
def test_overviews_have_no_seams(resampling: str, tmp_path: Path) -> None:
    """Those of a raster in several tiles equal those of the same raster in one."""
    source = write_raster(tmp_path / "smooth.tif", textured(1, 2048, 2048, "float32"))
    several = whole(source, tmp_path, overview_resampling=resampling, blocksize=128)
    with rasterio.open(source) as given:
        pixels = given.read()
    with rasterio.open(several["cog"]["path"], OVERVIEW_LEVEL=0) as first:
        overview = first.read()
    if resampling == "average":
        np.testing.assert_allclose(overview[0], pixels[0].reshape(1024, 2, 1024, 2).mean(axis=(1, 3)), rtol=1e-6)
    elif resampling == "nearest":
        np.testing.assert_array_equal(overview[0], pixels[0, ::2, ::2])
    else:
        with rasterio.open(source) as given:
            reference = given.read(out_shape=(1, 1024, 1024), resampling=Resampling.cubic)
        np.testing.assert_allclose(overview, reference, rtol=1e-5)


def test_the_overview_begins_where_the_tiles_own_end(tmp_path: Path) -> None:
    pixels = textured(1, 2048, 2304, "int16")
    pixels[:, 1000:, :1040] = -9999
    source = write_raster(tmp_path / "scene.tif", pixels, nodata=-9999)
    tiled = run(source, tmp_path, tile_size=1024, blocksize=128)
    one = whole(source, tmp_path, blocksize=128)
    assert (tiled["overview"]["factor"], tiled["tiles"]["without_data"]) == (16, 1)
    with rasterio.open(Path(tiled["tiles"]["directory"]) / "scene_r0000_c0000.tif") as tile:
        assert tile.overviews(1) == [2, 4, 8]
    with rasterio.open(tiled["mosaic"]["path"]) as mosaic:
        for level, factor in enumerate([2, 4, 8, 16]):
            with rasterio.open(one["cog"]["path"], OVERVIEW_LEVEL=level) as overview:
                assert overview.shape == (2048 // factor, 2304 // factor)
                np.testing.assert_array_equal(mosaic.read(out_shape=(1, *overview.shape)), overview.read())


def test_low_zooms_are_read_from_the_overview_alone(tmp_path: Path) -> None:
    tiled = run(scene(tmp_path), tmp_path)
    for tile in Path(tiled["tiles"]["directory"]).glob("*.tif"):
        tile.unlink()
    with rasterio.open(tiled["mosaic"]["path"]) as mosaic, rasterio.open(tiled["overview"]["path"]) as overview:
        np.testing.assert_array_equal(mosaic.read(out_shape=overview.read().shape), overview.read())


def test_a_warped_mosaic_has_no_seams(tmp_path: Path) -> None:
    source = scene(tmp_path, "int16", 1, nodata=-9999)
    tiled = run(source, tmp_path, target_crs="EPSG:4326")
    with (
        rasterio.open(source) as given,
        rasterio.open(tiled["mosaic"]["path"]) as mosaic,
        WarpedVRT(given, crs="EPSG:4326", nodata=-9999, resampling=Resampling.bilinear, tolerance=1e-9) as exactly,
    ):
        assert mosaic.transform.almost_equals(exactly.transform, 1e-12)
        found, exact = mosaic.read(1), exactly.read(1)
    differs = found != exact
    assert differs.mean() <= 1e-5
    assert np.abs(found[differs].astype(int) - exact[differs]).max(initial=0) <= 1
    assert tiled["tiles"]["resampled"] is True


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_task_makes_no_finished_tile_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.raster import tile_store

    source = scene(tmp_path, "int16", 1, nodata=-9999)
    checkpoint = MemoryCheckpoint()
    saved: list[str] = []
    original = tile_store.TileStore.save

    def save(self: Any, key: Any, *rest: Any) -> Any:
        record = original(self, key, *rest)
        saved.append(f"{Path(self.tiles).name}/{key.text}")
        if deaths and len(saved) >= deaths[0]:
            del deaths[0]
            raise Killed
        return record

    deaths = [2, 5]
    monkeypatch.setattr(tile_store.TileStore, "save", save)
    while deaths:
        with pytest.raises(Killed):
            run(source, tmp_path, checkpoint=checkpoint)
    result = run(source, tmp_path, checkpoint=checkpoint)
    assert len(saved) == len(set(saved))
    monkeypatch.undo()
    assert_same_pixels(result, whole(source, tmp_path))
    assert not [left for left in tmp_path.rglob("*") if ".part" in left.name and left.is_file()]


def test_a_tile_that_was_harmed_meanwhile_is_made_again(tmp_path: Path) -> None:
    source = scene(tmp_path)
    checkpoint = MemoryCheckpoint()

    class KilledAfterTiles(MemoryCheckpoint):
        def save(self, phase: int, *arguments: Any, **named: Any) -> None:
            if phase == 2:
                raise Killed
            super().save(phase, *arguments, **named)

    checkpoint = KilledAfterTiles()
    with pytest.raises(Killed):
        run(source, tmp_path, checkpoint=checkpoint)
    [harmed] = (tmp_path / "out").rglob("*_r0001_c0001.tif")
    harmed.write_bytes(harmed.read_bytes()[:-100] + b"\0" * 100)
    checkpoint.__class__ = MemoryCheckpoint
    assert_same_pixels(run(source, tmp_path, checkpoint=checkpoint), whole(source, tmp_path))


def test_what_decides_is_the_declared_size(tmp_path: Path) -> None:
    source = write_raster(
        tmp_path / "a.tif",
        np.zeros((1, 1100, 1000), "uint8"),
        compress="deflate",
        transform=Affine(1, 0, 5e5, 0, -1, 5e6),
    )
    assert source.stat().st_size < 10_000
    assert "tiles" in run(source, tmp_path / "above", tiling_threshold_mb=1.0)
    assert "cog" in run(source, tmp_path / "below", tiling_threshold_mb=1.1)
