"""Files beside a raster: what they say counts as it does for GDAL, which is asked in these tests, and harms nobody."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.shutil import copy

from core.storage import LocalFiles, StorageRefused
from services.raster.acquire import source_of
from services.raster.complete import process
from services.raster.gdal import gdal_environment
from services.raster.parameters import ProcessRaster
from tests.raster_support import context_in, refusal, textured, validated, write_raster

PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)
WORLD_FILE = "10\n0\n0\n-10\n500005\n4999995\n"


@contextmanager
def output_of(path: Path, tmp_path: Path, **more: Any) -> Iterator[DatasetReader]:
    """The COG, or the mosaic, that a raster becomes."""
    out = tmp_path / "out"
    context, _ = context_in(tmp_path)
    process(ProcessRaster(source_url=str(path), output_dir=str(out), **more), context)
    [made] = list(out.rglob("*.vrt")) or list(out.rglob("*.tif"))
    with rasterio.open(made) as raster:
        yield raster


def messages_of(found: dict[str, Any], code: str) -> list[str]:
    return [warning["message"] for warning in found["warnings"] if warning["code"] == code]


def masked(path: Path, *, inside: bool = False, **more: Any) -> Path:
    """A raster whose mask lies beside it, or another one in it."""
    write_raster(path, textured(3, 700, 600, "uint8"), **more)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.add.outer(np.arange(700), np.arange(600)) % 7 > (4 if inside else 2))
    return path


def bare(path: Path, driver: str = "GTiff") -> Path:
    """A raster without a place."""
    with (
        pytest.warns(NotGeoreferencedWarning),
        rasterio.open(path, "w", driver=driver, width=600, height=700, count=1, dtype="uint8") as raster,
    ):
        raster.write(textured(1, 700, 600, "uint8"))
    return path


def described(path: Path, driver: str, crs: str = "EPSG:32633", **more: Any) -> Path:
    """A raster in a format without georeferencing, described by the file that GDAL writes beside it."""
    plain = write_raster(path.with_name("plain.tif"), textured(1, 700, 600, "uint8"), crs=crs)
    with rasterio.open(plain, "r+") as raster:
        raster.descriptions = ("höhe <1>",)
        raster.units = ("m",)
        raster.scales, raster.offsets = (0.1,), (-5.0,)
        raster.update_tags(1, season="winter")
    copy(plain, path, driver=driver, **more)
    plain.unlink()
    assert path.with_name(path.name + ".aux.xml").exists()
    return path


def pam(path: Path, content: str) -> None:
    path.with_name(path.name + ".aux.xml").write_text(f"<PAMDataset>{content}</PAMDataset>")


def in_utm(path: Path) -> Path:
    pam(bare(path), f"<SRS>EPSG:32633</SRS><GeoTransform>{', '.join(map(str, PLACE.to_gdal()))}</GeoTransform>")
    return path


def overruled(path: Path) -> Path:
    write_raster(path, textured(2, 700, 600, "float64"), nodata=-1)
    third = '<NoDataValue le_hex_equiv="555555555555D53F">0.33333</NoDataValue>'
    pam(
        path,
        "<SRS>EPSG:32634</SRS><GeoTransform>7, 2, 0, 9, 0, -2</GeoTransform>"
        f'<PAMRasterBand band="1">{third}</PAMRasterBand>'
        f'<PAMRasterBand band="2">{third}<Description>two</Description></PAMRasterBand>'
        '<PAMRasterBand band="9"><Description>none</Description></PAMRasterBand>',
    )
    return path


def masked_twice(path: Path) -> Path:
    beside = masked(path).with_name(path.name + ".msk").read_bytes()
    masked(path, inside=True)
    path.with_name(path.name + ".msk").write_bytes(beside)
    return path


def mosaic_of_masked(path: Path) -> Path:
    masked(path.with_name("a.tif"))
    with rasterio.open(path.with_name("a.tif")) as raster:
        copy(raster, path, driver="VRT")
    return path


RASTERS: dict[str, Callable[[Path], Path]] = {
    "a mask": lambda home: masked(home / "a.tif"),
    "a mask and nodata": lambda home: masked(home / "a.tif", nodata=7),
    "a mask beside and one inside": lambda home: masked_twice(home / "a.tif"),
    "PNG": lambda home: described(home / "a.png", "PNG"),
    "JPEG": lambda home: described(home / "scène 1.jpg", "JPEG", QUALITY=100),
    "PNG in Web Mercator": lambda home: described(home / "a.png", "PNG", "EPSG:3857"),
    "a TIFF without a place": lambda home: in_utm(home / "a.tif"),
    "a VRT over a masked raster": lambda home: mosaic_of_masked(home / "a.vrt"),
    "what is inside is overruled": lambda home: overruled(home / "a.tif"),
}


@pytest.mark.parametrize("more", [{}, {"tiling_threshold_mb": 0, "tile_size": 512}], ids=["one COG", "tiles"])
@pytest.mark.parametrize("make", RASTERS.values(), ids=RASTERS)
def test_a_raster_with_files_beside_it_becomes_what_gdal_sees(
    tmp_path: Path, make: Callable[[Path], Path], more: dict[str, Any]
) -> None:
    path = make(tmp_path)
    with rasterio.open(path) as seen, output_of(path, tmp_path, **more) as made:
        np.testing.assert_array_equal(made.dataset_mask() > 0, seen.dataset_mask() > 0)
        valid = np.broadcast_to(seen.dataset_mask() > 0, (seen.count, *seen.shape))
        np.testing.assert_array_equal(made.read()[valid], seen.read()[valid])
        assert made.crs == seen.crs
        assert made.transform.almost_equals(seen.transform)
        assert made.nodata == seen.nodata
        assert (made.descriptions, made.units) == (seen.descriptions, seen.units)
        assert (made.scales, made.offsets) == (seen.scales, seen.offsets)
        assert made.tags(1).get("season") == seen.tags(1).get("season")
        assert made.colorinterp == seen.colorinterp


def test_a_mask_beside_a_raster_is_warped_as_one_inside_is(tmp_path: Path) -> None:
    outputs = []
    for place in (tmp_path / "beside", tmp_path / "inside"):
        place.mkdir()
        path = masked(place / "a.tif")
        if place.name == "inside":
            with rasterio.open(path) as seen:
                mask = seen.dataset_mask()
            (place / "a.tif.msk").unlink()
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
                raster.write_mask(mask)
        with output_of(path, place, target_crs="EPSG:3857") as made:
            outputs.append((made.read(), made.dataset_mask()))
    (pixels, mask), (expected, expected_mask) = outputs
    assert 0 < (mask > 0).sum() < mask.size
    assert (mask != expected_mask).mean() <= 1e-5  # one is placed by polynomials, the other by GDAL
    assert (pixels != expected).mean() <= 1e-5


@pytest.mark.parametrize(
    ("name", "driver", "beside"),
    [
        ("a.tif", "GTiff", "a.tfw"),
        ("a.tif", "GTiff", "a.TFW"),
        ("a.TIFF", "GTiff", "a.tfw"),
        ("a.b.tif", "GTiff", "a.b.tifw"),
        ("a.jpg", "JPEG", "a.jgw"),
        ("a.png", "PNG", "a.pgw"),
        ("a.png", "PNG", "a.wld"),
    ],
)
def test_a_world_file_places_a_raster(tmp_path: Path, name: str, driver: str, beside: str) -> None:
    path = bare(tmp_path / name, driver)
    (tmp_path / beside).write_text(WORLD_FILE)
    found = validated(path, tmp_path, input_crs="EPSG:32633")
    with rasterio.open(path) as seen:
        assert found["transform"] == list(seen.transform)[:6] == list(PLACE)[:6]
    assert found["driver"] == driver
    assert beside in messages_of(found, "SIDECAR_READ")[0]


def test_a_turned_world_file_with_commas_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = bare(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_bytes("\ufeff8,5\r\n\r\n3,25\r\n3,5\r\n-8\r\n500005,5\r\n4999995\r\n".encode())
    found = validated(path, tmp_path, input_crs="EPSG:32633")
    assert found["transform"] == [8.5, 3.5, 500_005.5 - 6, 3.25, -8, 4_999_995 + 2.375]


def test_a_raster_with_a_place_keeps_it_beside_a_world_file(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", textured(1, 32, 32, "uint8"))
    alone = validated(path, tmp_path)
    (tmp_path / "a.tfw").write_text(WORLD_FILE)
    assert validated(path, tmp_path) == alone


def test_statistics_and_overviews_beside_a_raster_change_nothing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", textured(1, 32, 32, "uint8"))
    alone = validated(path, tmp_path)
    pam(
        path,
        '<PAMRasterBand band="1"><Histograms><HistItem/></Histograms><Metadata><MDI key="STATISTICS_MEAN">7</MDI>'
        "</Metadata></PAMRasterBand>",
    )
    (tmp_path / "a.tif.ovr").write_text("<VRTDataset rasterXSize='1' rasterYSize='1'/>")
    assert validated(path, tmp_path) == alone


def test_a_mask_that_is_not_used_is_named(tmp_path: Path) -> None:
    path = masked_twice(tmp_path / "a.tif")
    [message] = messages_of(validated(path, tmp_path), "SIDECAR_IGNORED")
    assert "a.tif.msk" in message


def test_an_archive_brings_the_files_beside_its_raster(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = masked(home / "a.tif")
    (home / "a.tif.ovr").write_bytes(path.read_bytes())
    pam(path, '<PAMRasterBand band="2"><Description>two</Description></PAMRasterBand>')
    archive = tmp_path / "delivery.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for file in home.iterdir():
            written.write(file, f"delivery/{file.name}")
    with rasterio.open(path) as seen, output_of(archive, tmp_path) as made:
        np.testing.assert_array_equal(made.dataset_mask(), seen.dataset_mask())
        assert made.descriptions == (None, "two", None)


def version_of(path: Path, work: Path) -> str:
    context, _ = context_in(work)
    with gdal_environment():
        return source_of(str(path), context).version


def test_other_files_beside_make_another_source(tmp_path: Path) -> None:
    """A task that goes on where an earlier attempt was must not mix what it made of the old ones."""
    path = bare(tmp_path / "a.tif")
    versions = set()
    for content in (WORLD_FILE, WORLD_FILE + "\n"):
        (tmp_path / "a.tfw").write_text(content)
        versions |= {version_of(path, tmp_path / each) for each in ("one", "other")}
    assert len(versions) == 2


def test_another_mask_beside_a_raster_of_a_vrt_makes_another_source(tmp_path: Path) -> None:
    path = mosaic_of_masked(tmp_path / "a.vrt")
    before = version_of(path, tmp_path)
    assert version_of(path, tmp_path) == before
    mask = tmp_path / "a.tif.msk"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert version_of(path, tmp_path) != before


def test_an_archive_is_the_same_source_on_another_machine(tmp_path: Path) -> None:
    archive = tmp_path / "delivery.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.write(bare(tmp_path / "a.tif"), "a.tif")
        written.writestr("a.tfw", WORLD_FILE)
    assert version_of(archive, tmp_path / "one") == version_of(archive, tmp_path / "other")


def assert_refused_by_name(path: Path, tmp_path: Path, named: str, **parameters: Any) -> None:
    error = refusal(path, tmp_path, **parameters)
    assert error.code == "SIDECAR_REFUSED"
    assert f"{named} beside {path.name}" in str(error)


WRONG_WORLD_FILES = {
    "letters": "ten\n0\n0\n-10\n5\n5\n",
    "too few": "10\n0\n0\n-10\n",
    "infinite": "inf\n0\n0\n-10\n5\n5\n",
    "flat": "10\n10\n10\n10\n5\n5\n",
    "empty": "",
    "a blank line": "\n",
    "no text": "\x00\xff" * 7,
    "endless": "10\n" * 100_000,
}


@pytest.mark.parametrize("content", WRONG_WORLD_FILES.values(), ids=WRONG_WORLD_FILES)
def test_a_world_file_that_is_none_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = bare(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(content)
    assert_refused_by_name(path, tmp_path, "a.tfw, the world file", input_crs="EPSG:32633")


WRONG_DESCRIPTIONS = {
    "an entity": '<!DOCTYPE x [<!ENTITY a "b">]><PAMDataset><SRS>&a;</SRS></PAMDataset>',
    "no XML": "SRS=EPSG:4326",
    "empty": "",
    "huge": "<PAMDataset>" + " " * 2**24 + "</PAMDataset>",
    "another root": "<VRTDataset/>",
    "a CRS that is a file": "<PAMDataset><SRS>/etc/passwd</SRS></PAMDataset>",
    "a CRS that is an address": "<PAMDataset><SRS>http://localhost/crs</SRS></PAMDataset>",
    "five numbers": "<PAMDataset><GeoTransform>1,2,3,4,5</GeoTransform></PAMDataset>",
    "a point without a place": "<PAMDataset><GCPList><GCP Pixel='1' Line='1' X='a' Y='1'/></GCPList></PAMDataset>",
    "a nodata word": "<PAMDataset><PAMRasterBand band='1'><NoDataValue>none</NoDataValue></PAMRasterBand></PAMDataset>",
}


@pytest.mark.parametrize("content", WRONG_DESCRIPTIONS.values(), ids=WRONG_DESCRIPTIONS)
def test_a_description_that_is_none_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = bare(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(content)
    assert_refused_by_name(path, tmp_path, "a.tif.aux.xml, the description", input_crs="EPSG:32633")


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


WRONG_MASKS: dict[str, Callable[[Path], object]] = {
    "a TIFF that is a VRT": lambda mask: mask.write_bytes(b"II*\0<VRTDataset" + mask.read_bytes()),
    "a VRT": lambda mask: mask.write_text("<VRTDataset rasterXSize='600' rasterYSize='700'/>"),
    "empty": lambda mask: mask.write_bytes(b""),
    "cut short": cut_short,
    "another size": lambda mask: write_raster(mask, textured(1, 70, 60, "uint8")),
    "another type": lambda mask: write_raster(mask, textured(1, 700, 600, "uint16")),
}


@pytest.mark.parametrize("damage", WRONG_MASKS.values(), ids=WRONG_MASKS)
def test_a_mask_that_is_none_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = masked(tmp_path / "a.tif")
    damage(tmp_path / "a.tif.msk")
    assert_refused_by_name(path, tmp_path, "a.tif.msk, the mask")


def test_a_link_beside_a_raster_leads_nowhere_else(tmp_path: Path) -> None:
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    allowed.mkdir()
    elsewhere.mkdir()
    secret = masked(elsewhere / "secret.tif").with_name("secret.tif.msk")
    path = write_raster(allowed / "a.tif", textured(3, 700, 600, "uint8"))
    (allowed / "a.tif.msk").symlink_to(secret)
    with pytest.raises(StorageRefused) as caught:
        validated(path, tmp_path, LocalFiles(roots=[allowed]))
    assert caught.value.code == "SOURCE_NOT_ALLOWED"


def test_a_raster_that_is_a_vrt_too_is_not_opened_as_one(tmp_path: Path) -> None:
    """A VRT around it would leave it to GDAL what it is."""
    secret = write_raster(tmp_path / "secret.tif", textured(1, 70, 60, "uint8"))
    path = tmp_path / "a.tif"
    path.write_bytes(
        b'II*\0\xff\xff\xff\x7f<VRTDataset rasterXSize="60" rasterYSize="70"><VRTRasterBand dataType="Byte" band="1">'
        b"<SimpleSource><SourceFilename>"
        + bytes(secret)
        + b"</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "a.tfw").write_text(WORLD_FILE)
    assert refusal(path, tmp_path, input_crs="EPSG:32633").code == "FORMAT_NOT_ALLOWED"


def test_what_a_description_names_is_not_opened(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", textured(1, 700, 600, "uint8"))
    other = write_raster(tmp_path / "other.tif", np.full((1, 350, 300), 9, "uint8"))
    alone = validated(path, tmp_path)
    pam(
        path,
        f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{other}</MDI></Metadata>'
        f'<Subdataset name="{other}"/><PAMRasterBand band="1"><Overview><SourceFilename>{other}</SourceFilename>'
        "</Overview></PAMRasterBand>",
    )
    assert validated(path, tmp_path) == alone
