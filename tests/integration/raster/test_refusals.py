"""Sources that cannot or must not be processed: each ends in an error of its own, in bounded time."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from core.errors import PermanentError
from services.raster import sample_raster
from services.raster.errors import RasterError
from services.raster.gdal import gdal_environment
from services.raster.parameters import CreateCog, ValidateRaster
from services.raster.steps import run_cog, run_validation
from tests.raster_support import RASTERS, context_in, textured, write_raster


def validate(path: object, tmp_path: Path, **parameters: Any) -> dict[str, Any]:
    context, _ = context_in(tmp_path)
    return run_validation(ValidateRaster(source_url=str(path), **parameters), context)


def refusal(path: object, tmp_path: Path, **parameters: Any) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        validate(path, tmp_path, **parameters)
    assert caught.value.code
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("rasterio__corrupt.tif", "TRUNCATED"),
        ("rasterio__float_nan.tif", "CRS_MISSING"),
        ("rasterio__rotated.tif", "CRS_MISSING"),
        ("rioxarray__test_rpcs.tif", "RPC_ONLY"),
    ],
)
def test_real_rasters_that_cannot_be_processed(name: str, code: str, tmp_path: Path) -> None:
    assert refusal(RASTERS / name, tmp_path).code == code


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "absent.tif", tmp_path)
    assert error.code == "FILE_NOT_FOUND"
    assert "absent.tif" in str(error)


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path, tmp_path).code == "NOT_A_FILE"


def test_a_device(tmp_path: Path) -> None:
    assert refusal("/dev/null", tmp_path).code == "NOT_A_FILE"


def test_a_path_longer_than_the_file_system_allows(tmp_path: Path) -> None:
    assert refusal("/" + "a" * 300, tmp_path).code in {"FILE_NOT_FOUND", "FILE_NOT_READABLE"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "EMPTY_FILE"),
        (b"just some text, not a raster\n" * 20, "NOT_A_RASTER"),
        (b"II*\0", "TRUNCATED"),
        (b"II*\0\x08\0\0\0", "TRUNCATED"),
        (b"II+\0\x08\0\0\0", "TRUNCATED"),
        (b"MM\0*\0\0\0\x08", "TRUNCATED"),
        (b"II*\0\x08\0\0\0" + bytes(100), "CORRUPT_DATA"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "CORRUPT_DATA"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "CORRUPT_DATA"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "CORRUPT_DATA"),
        (b"\x1f\x8b\x08" + bytes(50), "FORMAT_NOT_ALLOWED"),
    ],
)
def test_what_is_no_raster_at_all(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "given.tif"
    path.write_bytes(content)
    assert refusal(path, tmp_path).code == code


@pytest.mark.parametrize("url", ["https://example.com/a.tif", "s3://bucket/a.tif", "/vsicurl/http://localhost/a.tif"])
def test_sources_that_are_not_files(url: str, tmp_path: Path) -> None:
    assert refusal(url, tmp_path).code == "SOURCE_NOT_SUPPORTED"


def test_a_vrt_must_not_reach_another_file(tmp_path: Path) -> None:
    path = tmp_path / "innocent.tif"
    path.write_text(
        f"""<VRTDataset rasterXSize="791" rasterYSize="718"><SRS>EPSG:32618</SRS>
        <GeoTransform>0,1,0,0,0,-1</GeoTransform><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
        <SourceFilename>{sample_raster()}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>
        </VRTDataset>"""
    )
    assert refusal(path, tmp_path).code == "VRT_REFUSED"


def test_a_vrt_hidden_in_a_tiff_header_is_read_as_a_tiff(tmp_path: Path) -> None:
    path = tmp_path / "polyglot.tif"
    path.write_bytes(b'II*\0\xff\xff\xff\x7f<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    assert refusal(path, tmp_path).code == "TRUNCATED"


def huge_header(width: int, height: int, tile: int = 512) -> bytes:
    """A sparse tiled BigTIFF of one band of 8 bits whose block tables are one shared zero."""
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 4, 1, tile),
        (323, 4, 1, tile),
        (324, 16, 1, 0),
        (325, 16, 1, 0),
    ]
    body = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", len(entries)) + body + bytes(8)


@pytest.mark.parametrize("side", [1_000_000, 200_000, 2_000_000_000])
def test_a_header_that_claims_more_than_there_can_be(side: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    path.write_bytes(huge_header(side, side))
    assert refusal(path, tmp_path).code in {"DECLARED_SIZE_TOO_LARGE", "CORRUPT_DATA", "TRUNCATED"}


def test_a_sparse_raster_that_declares_terabytes(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    options = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "sparse_ok": "TRUE", "bigtiff": "YES"}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=1_000_000,
        height=1_000_000,
        count=1,
        dtype="uint8",
        crs="EPSG:3857",
        transform=Affine(2, 0, 0, 0, -2, 0),
        **options,
    ):
        pass
    assert path.stat().st_size < 1_000_000
    error = refusal(path, tmp_path)
    assert error.code == "DECLARED_SIZE_TOO_LARGE"
    assert error.details["declared_bytes"] == 10**12


def test_an_expansion_bomb_below_the_absolute_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=90_000,
        height=90_000,
        count=1,
        dtype="uint8",
        crs="EPSG:3857",
        transform=Affine(2, 0, 0, 0, -2, 0),
        tiled=True,
        blockxsize=4096,
        blockysize=4096,
        sparse_ok="TRUE",
    ):
        pass
    assert refusal(path, tmp_path).code == "DECLARED_SIZE_TOO_LARGE"


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_pixels(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "slc.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=1, dtype=dtype, crs="EPSG:32633", transform=Affine.scale(10)
    ):
        pass
    assert refusal(path, tmp_path).code == "UNSUPPORTED_DTYPE"


def test_a_crs_without_a_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with pytest.warns(NotGeoreferencedWarning):
        write_raster(path, textured(1, 8, 8, "uint8"), transform=Affine.identity())
    assert refusal(path, tmp_path).code == "NOT_GEOREFERENCED"


def test_ground_control_points_without_a_crs(tmp_path: Path) -> None:
    path = tmp_path / "gcps.tif"
    points = [GroundControlPoint(row, column, 10 + column, 50 - row) for row in (0, 8) for column in (0, 8)]
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8", gcps=points, crs=CRS()
    ) as raster:
        raster.write(textured(1, 8, 8, "uint8"))
    assert refusal(path, tmp_path).code == "CRS_MISSING"
    assert validate(path, tmp_path, input_crs="EPSG:4326")["georeferencing"] == "gcps"


def test_input_crs_stands_in_and_never_overrides(tmp_path: Path) -> None:
    without = write_raster(tmp_path / "without.tif", textured(1, 8, 8, "uint8"), crs=None)
    assert refusal(without, tmp_path).code == "CRS_MISSING"
    found = validate(without, tmp_path, input_crs="EPSG:32633")
    assert found["source_crs"] == "EPSG:32633"
    assert "CRS_FROM_PARAMETER" in {warning["code"] for warning in found["warnings"]}
    found = validate(sample_raster(), tmp_path, input_crs="EPSG:4326")
    assert found["source_crs"] == "EPSG:32618"
    assert "INPUT_CRS_IGNORED" in {warning["code"] for warning in found["warnings"]}


def test_pixels_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "a.tif",
        textured(1, 256, 256, "uint8"),
        compress="deflate",
        tiled=True,
        blockxsize=128,
        blockysize=128,
    )
    with rasterio.open(path) as raster:
        offset = int(raster.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = bytes(64)
    path.write_bytes(content)
    assert refusal(path, tmp_path).code == "CORRUPT_DATA"


def test_a_damaged_block_that_sampling_did_not_meet_never_becomes_a_cog(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (1, 4096, 4096)).astype("uint8")
    path = write_raster(
        tmp_path / "a.tif", pixels, compress="deflate", zlevel=1, tiled=True, blockxsize=256, blockysize=256
    )
    with rasterio.open(path) as raster:
        offset = int(raster.get_tag_item("BLOCK_OFFSET_7_6", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 64] = bytes(64)
    path.write_bytes(content)
    context, _ = context_in(tmp_path)
    with pytest.raises(RasterError) as caught:
        run_cog(CreateCog(source_url=str(path), output_dir=str(tmp_path / "out")), context)
    assert caught.value.code == "CORRUPT_DATA"
    assert [left for left in (tmp_path / "out").rglob("*") if left.is_file()] == []


@pytest.mark.parametrize("layout", ["end", "start", "strips"])
def test_a_raster_cut_at_any_byte_is_refused_or_whole(layout: str, tmp_path: Path) -> None:
    pixels = textured(2, 70, 90, "int16")
    options = {
        "end": {"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32, "nodata": -1},
        "start": {"driver": "COG"},
        "strips": {"nodata": -1},
    }[layout]
    whole = tmp_path / "whole.tif"
    if layout == "start":
        with gdal_environment():
            plain = write_raster(tmp_path / "plain.tif", pixels, nodata=-1)
            rasterio.shutil.copy(plain, whole, driver="COG")
    else:
        write_raster(whole, pixels, tags={"NAME": "value"}, **options)
    content = whole.read_bytes()
    cut = tmp_path / "cut.tif"
    codes = set()
    for length in sorted(
        {*range(0, len(content), max(1, len(content) // 150)), *range(len(content) - 40, len(content))}
    ):
        cut.write_bytes(content[:length])
        try:
            found = validate(cut, tmp_path)
        except RasterError as error:
            codes.add(error.code)
            continue
        assert found["nodata"] == -1, length
        assert found["source_crs"] == "EPSG:32633", length
        with rasterio.open(cut) as raster:
            np.testing.assert_array_equal(raster.read(), pixels)
    assert codes <= {"EMPTY_FILE", "NOT_A_RASTER", "TRUNCATED", "CORRUPT_DATA"}
    assert "TRUNCATED" in codes
