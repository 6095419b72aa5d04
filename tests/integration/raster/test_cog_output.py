"""COGs: valid by an independent validator, with the source's pixels, masks and metadata, and never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NodataShadowWarning
from rio_cogeo.cogeo import cog_validate

from core.stopping import StopReason, StopToken
from services.raster import sample_raster
from services.raster.errors import RasterError
from services.raster.outputs import sha256_of
from services.raster.parameters import CreateCog
from services.raster.steps import run_cog
from tests.raster_support import RASTERS, context_in, textured, write_raster

pytestmark = pytest.mark.filterwarnings(f"ignore::{NodataShadowWarning.__module__}.{NodataShadowWarning.__qualname__}")


def make(source: Path, tmp_path: Path, **parameters: Any) -> dict[str, Any]:
    context, _ = context_in(tmp_path)
    parameters.setdefault("output_dir", str(tmp_path / "out"))
    return run_cog(CreateCog(source_url=str(source), **parameters), context)


def assert_valid(made: dict[str, Any]) -> None:
    path = Path(made["path"])
    valid, errors, warnings = cog_validate(str(path), strict=True, quiet=True)
    assert valid, (errors, warnings)
    assert made["sha256"] == sha256_of(path)
    assert made["size_bytes"] == path.stat().st_size
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name]


STATISTICS = ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV", "VALID_PERCENT")
KEPT = [
    "opengeos__dtm.tif",
    "rasterio__RGBA.uint16.tif",
    "rasterio__all-nodata.tif",
    "rasterio__goes.tif",
    "rasterio__test_esri_wkt.tif",
    "rasterio__world.byte.tif",
    "riocogeo__image_51px.tif",
    "riocogeo__image_colormap.tif",
    "riocogeo__image_rgb_mask.tif",
    "riocogeo__image_rgba_nodata.tif",
    "riocogeo__image_tags.tif",
    "riotiler__cog_dateline.tif",
    "riotiler__cog_hirise_mars.tif",
    "riotiler__cog_scale_epsg4326.tif",
    "riotiler__inverted_lat.tif",
]


@pytest.mark.parametrize("source", [*(RASTERS / name for name in KEPT), sample_raster()], ids=lambda path: path.stem)
def test_nothing_is_lost_where_nothing_is_resampled(source: Path, tmp_path: Path) -> None:
    made = make(source, tmp_path)
    assert_valid(made)
    assert made["validation"]["pixels_equal_source"] is True
    with rasterio.open(source) as given, rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.read(), given.read())
        np.testing.assert_array_equal(cog.read_masks(), given.read_masks())
        assert cog.crs == given.crs
        assert cog.transform.almost_equals(given.transform, 1e-9)
        assert cog.dtypes == given.dtypes
        np.testing.assert_equal(cog.nodatavals, given.nodatavals)
        assert cog.colorinterp == given.colorinterp
        assert cog.descriptions == given.descriptions
        assert (cog.units, cog.scales, cog.offsets) == (given.units, given.scales, given.offsets)
        assert (
            given.tags().items() <= {**cog.tags(), "OVR_RESAMPLING_ALG": cog.tags().get("OVR_RESAMPLING_ALG")}.items()
        )
        for band in given.indexes:
            lasting = {name: text for name, text in given.tags(band).items() if not name.startswith("STATISTICS_")}
            assert lasting.items() <= cog.tags(band).items()
            if given.colorinterp[band - 1] == ColorInterp.palette:
                assert cog.colormap(band) == given.colormap(band)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzw", "none"])
def test_every_real_dtype_survives_every_lossless_codec(dtype: str, compression: str, tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", textured(1, 150, 170, dtype))
    made = make(source, tmp_path, compression=compression, blocksize=128)
    assert_valid(made)
    assert made["overviews"] == [2]
    with rasterio.open(source) as given, rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.read(), given.read())


@pytest.mark.parametrize(
    ("pixels", "nodata"),
    [
        (np.zeros((1, 1, 1), "uint8"), None),
        (np.full((1, 3, 2), np.nan, "float32"), None),
        (np.full((1, 3, 2), np.nan, "float32"), np.nan),
        (np.array([[[np.inf, -np.inf, np.nan, 1.0]]], "float32"), None),
        (np.array([[[np.finfo("float64").max, np.finfo("float64").min, 0.0]]], "float64"), None),
        (np.array([[[np.finfo("float32").max, 1.0, 0.0]]], "float32"), float(np.finfo("float32").max)),
        (np.zeros((7, 40, 1), "uint16"), 0),
        (np.zeros((2, 1, 700), "int16"), None),
        (np.full((1, 600, 600), -9999, "int16"), -9999),
    ],
    ids=["1x1", "all nan", "nan nodata", "infinite", "largest", "flt_max", "thin", "one row", "all nodata"],
)
def test_degenerate_pixels(pixels: Any, nodata: float | None, tmp_path: Path) -> None:
    made = make(write_raster(tmp_path / "a.tif", pixels, nodata=nodata), tmp_path)
    assert_valid(made)
    with rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.read(), pixels)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("width", "height", "blocksize"),
    [(512, 640, 512), (1024, 2100, 512), (2048, 5000, 512), (256, 600, 256), (1024, 900, 1024), (2, 1300, 512)],
)
def test_a_raster_as_wide_as_a_block_at_some_level(
    width: int, height: int, blocksize: int, masked: bool, tmp_path: Path
) -> None:
    source = write_raster(tmp_path / "a.tif", textured(1, height, width, "uint8"))
    if masked:
        with rasterio.open(source, "r+") as raster:
            raster.write_mask(np.arange(height)[:, None] % 300 > np.arange(width) % 40)
    made = make(source, tmp_path, blocksize=blocksize)
    assert_valid(made)
    with rasterio.open(source) as given, rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.read(), given.read())
        np.testing.assert_array_equal(cog.dataset_mask(), given.dataset_mask())
        assert cog.block_shapes[0][0] == made["blocksize"]
        factors = cog.overviews(1)
    for level, _ in enumerate(factors):
        with rasterio.open(made["path"], OVERVIEW_LEVEL=level) as overview:
            assert overview.read().any()
            assert overview.dataset_mask().any()


def test_a_mask_goes_before_nodata(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", np.zeros((1, 80, 90), "uint8"), nodata=0)
    with rasterio.open(source, "r+") as raster:
        raster.write_mask(np.arange(80)[:, None] * np.ones(90) >= 60)
    made = make(source, tmp_path)
    assert_valid(made)
    assert made["statistics"][0]["valid_percent"] == 25
    with rasterio.open(source) as given, rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.dataset_mask(), given.dataset_mask())
        np.testing.assert_array_equal(cog.read(), given.read())


def test_a_raster_of_one_column(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", textured(1, 1300, 1, "uint8"))
    made = make(source, tmp_path)
    assert made["overviews"] == []
    with rasterio.open(source) as given, rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.read(), given.read())


def test_signed_bytes_stay_what_they_are_when_warped(tmp_path: Path) -> None:
    edges = np.where(np.add.outer(np.arange(90) // 9, np.arange(120) // 7) % 2, 127, -128).astype("int8")
    source = write_raster(tmp_path / "a.tif", edges[None], nodata=0)
    made = make(source, tmp_path, target_crs="EPSG:4326", resampling="cubic", raster_type="single_band")
    assert_valid(made)
    with rasterio.open(made["path"]) as cog:
        assert cog.dtypes == ("int8",)
        values = cog.read(1, masked=True).compressed()
    assert (values.min(), values.max()) == (-128, 127)
    assert np.mean((values == 127) | (values == -128)) > 0.3


def test_less_than_half_a_row_is_a_row(tmp_path: Path) -> None:
    far_north = Affine(0.5, 0, 500_000, 0, -0.5, 9_800_000)
    source = write_raster(tmp_path / "a.tif", textured(1, 2, 257, "uint8"), transform=far_north, crs="EPSG:32635")
    made = make(source, tmp_path, target_crs="EPSG:4326")
    assert_valid(made)
    assert made["shape"][0] == 1


def test_a_name_of_any_characters(tmp_path: Path) -> None:
    folder = tmp_path / "päth with spaces & (brackets) !?#%20"
    folder.mkdir()
    source = write_raster(folder / "Ünïcode nåme — 東京 'x'?#.tif", textured(1, 20, 20, "uint8"))
    made = make(source, tmp_path)
    assert_valid(made)
    assert Path(made["path"]).name == "Ünïcode_nåme_東京_x.tif"


def test_statistics_are_those_of_every_valid_pixel(tmp_path: Path) -> None:
    made = make(sample_raster(), tmp_path)
    with rasterio.open(sample_raster()) as given:
        for band, statistics in zip(given.read(masked=True), made["statistics"], strict=True):
            assert statistics["minimum"] == band.min()
            assert statistics["maximum"] == band.max()
            assert statistics["mean"] == pytest.approx(band.mean(dtype="float64"), rel=1e-12)
            assert statistics["stddev"] == pytest.approx(band.std(dtype="float64"), rel=1e-9)
            assert statistics["valid_percent"] == pytest.approx(100 * band.count() / band.size, abs=1e-4)


def test_stale_statistics_and_overviews_of_the_source_are_not_carried_over(tmp_path: Path) -> None:
    source = write_raster(
        tmp_path / "a.tif", textured(1, 400, 400, "uint8"), tiled=True, blockxsize=128, blockysize=128
    )
    with rasterio.open(source, "r+") as raster:
        raster.build_overviews([4, 2], rasterio.enums.Resampling.nearest)
        raster.update_tags(1, KEPT="yes", **{f"STATISTICS_{name}": "5" for name in STATISTICS})
    made = make(source, tmp_path)
    assert_valid(made)
    with rasterio.open(made["path"]) as cog:
        assert cog.overviews(1) == []
        assert float(cog.tags(1)["STATISTICS_MAXIMUM"]) == cog.read(1).max()
        assert cog.tags(1)["KEPT"] == "yes"


def test_categories_are_never_averaged(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:1200, 0:1200]
    pixels = (((rows // 7) + (columns // 5)) % 4 * 60).astype("uint8")[None]
    made = make(write_raster(tmp_path / "land_cover.tif", pixels), tmp_path)
    assert made["raster_type"] == "categorical"
    assert made["overview_resampling"] == "nearest"
    for level in range(len(made["overviews"])):
        with rasterio.open(made["path"], OVERVIEW_LEVEL=level) as overview:
            assert set(np.unique(overview.read())) <= {0, 60, 120, 180}
    warped = make(tmp_path / "land_cover.tif", tmp_path / "warp", target_crs="EPSG:4326")
    with rasterio.open(warped["path"]) as cog:
        assert set(np.unique(cog.read())) <= {0, 60, 120, 180}
    for field in ("resampling", "overview_resampling"):
        with pytest.raises(RasterError, match=field) as caught:
            make(tmp_path / "land_cover.tif", tmp_path, target_crs="EPSG:4326", **{field: "cubic"})
        assert caught.value.code == "OPTION_NOT_ALLOWED"
    assert make(tmp_path / "land_cover.tif", tmp_path, raster_type="single_band", overview_resampling="average")


def test_overviews_of_continuous_pixels_leave_nodata_out(tmp_path: Path) -> None:
    pixels = np.full((1, 1024, 1024), 100, "int16")
    pixels[:, :, ::2] = -9999
    made = make(write_raster(tmp_path / "dem.tif", pixels, nodata=-9999), tmp_path, raster_type="dem")
    with rasterio.open(made["path"], OVERVIEW_LEVEL=0) as overview:
        assert set(np.unique(overview.read())) == {100}


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"compression": "jpeg"}, "8-bit"),
        ({"compression": "webp"}, "8-bit"),
    ],
)
def test_lossy_codecs_are_refused_where_they_are_not_legal(
    parameters: dict[str, str], word: str, tmp_path: Path
) -> None:
    with pytest.raises(RasterError, match=word) as caught:
        make(RASTERS / "opengeos__dtm.tif", tmp_path, **parameters)
    assert caught.value.code == "OPTION_NOT_ALLOWED"
    with pytest.raises(RasterError, match="categories"):
        make(RASTERS / "riocogeo__image_colormap.tif", tmp_path, compression="jpeg")


@pytest.mark.parametrize("compression", ["jpeg", "webp"])
def test_a_lossy_codec_keeps_which_pixels_are_valid(compression: str, tmp_path: Path) -> None:
    made = make(sample_raster(), tmp_path, compression=compression)
    assert_valid(made)
    assert made["lossless"] is False
    with rasterio.open(sample_raster()) as given, rasterio.open(made["path"]) as cog:
        np.testing.assert_array_equal(cog.dataset_mask() > 0, given.dataset_mask() > 0)
        assert cog.nodata is None
        shown = given.dataset_mask() > 0
        assert np.abs(cog.read().astype(int) - given.read())[:, shown].mean() < 6


def test_webp_at_quality_100_changes_no_pixel(tmp_path: Path) -> None:
    made = make(RASTERS / "riocogeo__image_tags.tif", tmp_path, compression="webp", quality=100)
    assert made["lossless"] is True
    assert made["validation"]["pixels_equal_source"] is True


def test_a_raster_without_crs_gets_the_one_that_is_given(tmp_path: Path) -> None:
    made = make(RASTERS / "rasterio__rotated.tif", tmp_path, input_crs="EPSG:32633")
    assert_valid(made)
    with rasterio.open(RASTERS / "rasterio__rotated.tif") as given, rasterio.open(made["path"]) as cog:
        assert cog.crs.to_epsg() == 32633
        assert cog.transform.almost_equals(given.transform, 1e-9)
        np.testing.assert_array_equal(cog.read(), given.read())


def test_ground_control_points_are_warped_into_place(tmp_path: Path) -> None:
    made = make(RASTERS / "riotiler__cog_gcps.tif", tmp_path)
    assert_valid(made)
    assert made["resampled"] is True
    with rasterio.open(made["path"]) as cog:
        assert cog.crs.to_epsg() == 4326
        assert cog.bounds == pytest.approx((75.605, 9.226, 78.204, 11.190), abs=0.001)
        assert MaskFlags.per_dataset in cog.mask_flag_enums[0]


def test_the_same_crs_as_target_resamples_nothing(tmp_path: Path) -> None:
    assert make(sample_raster(), tmp_path, target_crs="EPSG:32618")["validation"]["pixels_equal_source"] is True


def test_a_target_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(RasterError) as caught:
        make(RASTERS / "riotiler__cog_hirise_mars.tif", tmp_path, target_crs="EPSG:4326")
    assert caught.value.code == "CRS_NOT_TRANSFORMABLE"


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "nodata"), ("uint16", "per_dataset")])
def test_what_lies_outside_a_warped_raster_is_not_valid(dtype: str, expected: str, tmp_path: Path) -> None:
    source = write_raster(
        tmp_path / "a.tif", textured(1, 300, 300, dtype) + 1, transform=Affine(1000, 0, 1e5, 0, -1000, 5e6)
    )
    made = make(source, tmp_path, target_crs="EPSG:4326", raster_type="single_band")
    assert_valid(made)
    with rasterio.open(made["path"]) as cog:
        assert expected in {flag.name for flag in cog.mask_flag_enums[0]}
        mask = cog.read_masks(1) > 0
        assert 0.5 < mask.mean() < 0.999
        with rasterio.open(source) as given:
            low, high = given.read().min(), given.read().max()
        inside = cog.read(1)[mask]
        assert inside.min() >= low - 1
        assert inside.max() <= high + 1


def test_a_raster_across_the_antimeridian_stays_in_one_piece_in_degrees(tmp_path: Path) -> None:
    made = make(RASTERS / "riotiler__cog_dateline.tif", tmp_path, target_crs="EPSG:4326")
    with rasterio.open(made["path"]) as cog:
        assert 177 < cog.bounds.left < 179
        assert 181 < cog.bounds.right < 182
        assert cog.width < 4000


def test_a_target_whose_edge_runs_through_the_raster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="180th meridian") as caught:
        make(RASTERS / "riotiler__cog_dateline.tif", tmp_path, target_crs="EPSG:3857")
    assert caught.value.code == "CRS_NOT_TRANSFORMABLE"
    assert make(RASTERS / "riotiler__cog_dateline.tif", tmp_path, target_crs="EPSG:3832")["shape"][0] > 2000


def test_the_poles_are_cut_off_in_web_mercator(tmp_path: Path) -> None:
    rows = np.repeat(np.arange(180, dtype="float32")[None, :, None], 360, axis=2)
    source = write_raster(tmp_path / "w.tif", rows, crs="EPSG:4326", transform=Affine(1, 0, -180, 0, -1, 90))
    made = make(source, tmp_path, target_crs="EPSG:3857")
    assert_valid(made)
    edge = 20037508.342789244
    with rasterio.open(made["path"]) as cog:
        assert cog.bounds == pytest.approx((-edge, -edge, edge, edge), rel=0.01)
        middle = cog.read(1)[:, cog.width // 2]
        assert middle[np.isfinite(middle)].size > 0.98 * cog.height
        assert middle[cog.height // 2] == pytest.approx(90, abs=1.5)


def test_metadata_survives_a_warp(tmp_path: Path) -> None:
    made = make(RASTERS / "riocogeo__image_colormap.tif", tmp_path, target_crs="EPSG:3857")
    with rasterio.open(RASTERS / "riocogeo__image_colormap.tif") as given, rasterio.open(made["path"]) as cog:
        assert cog.colormap(1) == given.colormap(1)
    made = make(RASTERS / "riotiler__cog_scale_epsg4326.tif", tmp_path, target_crs="EPSG:3857")
    with rasterio.open(RASTERS / "riotiler__cog_scale_epsg4326.tif") as given, rasterio.open(made["path"]) as cog:
        assert (cog.scales, cog.offsets, cog.nodata) == (given.scales, given.offsets, given.nodata)


def test_an_output_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RasterError) as caught:
        make(sample_raster(), tmp_path)
    assert caught.value.code == "OUTPUT_NOT_A_DIRECTORY"


@pytest.mark.parametrize("directory", ["/proc/geoworker", "/sys/geoworker"])
def test_an_output_directory_that_cannot_be_written(directory: str, tmp_path: Path) -> None:
    with pytest.raises(RasterError) as caught:
        make(sample_raster(), tmp_path, output_dir=directory)
    assert caught.value.code == "OUTPUT_NOT_WRITABLE"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(RasterError) as caught:
        make(sample_raster(), tmp_path)
    assert caught.value.code == "OUTPUT_NOT_WRITABLE"


def test_two_jobs_do_not_share_an_output(tmp_path: Path) -> None:
    paths = set()
    for job_id in ("1" * 64, "2" * 64):
        context, _ = context_in(tmp_path, job_id=job_id)
        paths.add(run_cog(CreateCog(source_url=str(sample_raster()), output_dir=str(tmp_path)), context)["path"])
    assert len(paths) == 2


def test_a_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    stop = StopToken()
    stop.request(StopReason.DRAIN)
    context, _ = context_in(tmp_path, stop=stop)
    result = run_cog(CreateCog(source_url=str(sample_raster()), output_dir=str(tmp_path / "out")), context)
    assert result["interrupted"] is True
    assert [left for left in (tmp_path / "out").rglob("*") if left.is_file()] == []


def test_leftovers_of_a_killed_attempt_are_removed(tmp_path: Path) -> None:
    directory = tmp_path / "out" / ("a" * 16)
    directory.mkdir(parents=True)
    for ending in (".part", ".part.ovr.tmp", ".part.pixels"):
        (directory / f".RGB.byte.tif.{'b' * 16}{ending}").write_bytes(b"half")
    (directory / f".RGB.byte.tif.{'c' * 16}.part").write_bytes(b"another task's")
    made = make(sample_raster(), tmp_path)
    assert {entry.name for entry in directory.iterdir()} == {"RGB.byte.tif", f".RGB.byte.tif.{'c' * 16}.part"}
    assert made["path"] == str(directory / "RGB.byte.tif")


def test_progress_counts_pixels(tmp_path: Path) -> None:
    context, reported = context_in(tmp_path)
    run_cog(CreateCog(source_url=str(sample_raster()), output_dir=str(tmp_path)), context)
    counted = [progress for progress in reported if progress.unit == "pixels"]
    assert counted
    assert counted[-1].total == 791 * 718
    assert [progress.percent for progress in reported] == sorted(progress.percent for progress in reported)
    assert reported[-1].percent == 100
