"""Sources that were made to do harm: each is refused clearly, in bounded time and memory, and reaches nothing.

All are validated by one child process, which measures itself.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.file_server import FileServer, file_server
from tests.integration.raster.test_refusals import huge_header
from tests.raster_support import textured, write_raster

MAX_GROWN = 256 << 20
MAX_CPU_SECONDS = 20
SECRET = "the-secret-of-this-machine"


def entity_bomb(root: str) -> str:
    """Ten entities, each ten times the one before: 32 GB of text when expanded."""
    entities = "<!ENTITY e0 'aaa'>" + "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 11))
    return f'<?xml version="1.0"?><!DOCTYPE x [{entities}]>{root}'


@dataclass(frozen=True)
class Ground:
    """Where the sources lie: ``open`` may be read, ``closed`` not; ``url`` is of a server that must not be asked."""

    open: Path
    closed: Path
    url: str


def vrt(
    source: str, *, relative: int = 0, srs: str = "EPSG:32633", band: str = "", inner: str = "", size: int = 32
) -> str:
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>{srs}</SRS>'
        "<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1"{band}>{inner}<SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


Maker = Callable[[Ground, Path], object]
CASES: dict[str, tuple[str, str, Maker]] = {}


def case(name: str, code: str) -> Callable[[Maker], Maker]:
    """Registers what writes the hostile file ``name``, and the code of its refusal."""

    def register(maker: Maker) -> Maker:
        CASES[maker.__name__.strip("_")] = (name, code, maker)
        return maker

    return register


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_a_file_elsewhere(ground: Ground, path: Path) -> object:
    return path.write_text(vrt(f"{ground.closed}/secret.tif"))


@case("a.vrt", "VRT_REFUSED")
def _vrt_climbs_out_of_its_directory(ground: Ground, path: Path) -> object:
    return path.write_text(vrt("../../closed/secret.tif", relative=1))


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_a_link_that_leads_out(ground: Ground, path: Path) -> object:
    (path.parent / "innocent.tif").symlink_to(ground.closed / "secret.tif")
    return path.write_text(vrt("innocent.tif", relative=1))


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_a_text_of_the_machine(ground: Ground, path: Path) -> object:
    return path.write_text(vrt("/etc/passwd"))


@case("a.vrt", "VRT_REFUSED")
def _vrt_reaches_the_network_by_vsicurl(ground: Ground, path: Path) -> object:
    return path.write_text(vrt(f"/vsicurl/{ground.url}"))


@case("a.vrt", "VRT_REFUSED")
def _vrt_reaches_the_network_by_url(ground: Ground, path: Path) -> object:
    return path.write_text(vrt(ground.url))


@case("a.vrt", "VRT_REFUSED")
def _vrt_has_a_service_inline(ground: Ground, path: Path) -> object:
    service = f'&lt;GDAL_WMS&gt;&lt;Service name="TMS"&gt;&lt;ServerUrl&gt;{ground.url}&lt;/ServerUrl&gt;'
    return path.write_text(vrt(service))


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_a_service_description(ground: Ground, path: Path) -> object:
    (path.parent / "service.tif").write_text(f"<GDAL_WMS><Service name='TMS'><ServerUrl>{ground.url}</ServerUrl>")
    return path.write_text(vrt("service.tif", relative=1))


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_another_vrt(ground: Ground, path: Path) -> object:
    (path.parent / "inner.vrt").write_text(vrt(f"{ground.closed}/secret.tif"))
    return path.write_text(vrt("inner.vrt", relative=1))


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_a_vrt_that_begins_as_a_tiff(ground: Ground, path: Path) -> object:
    (path.parent / "inner.tif").write_text("II*\0" + vrt(f"{ground.closed}/secret.tif"))
    return path.write_text(vrt("inner.tif", relative=1))


@case("a.vrt", "VRT_REFUSED")
def _vrt_names_itself(ground: Ground, path: Path) -> object:
    return path.write_text(vrt("a.vrt", relative=1))


@case("a.vrt", "VRT_REFUSED")
def _vrt_runs_python(ground: Ground, path: Path) -> object:
    code = "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>os.system</PixelFunctionType>"
    return path.write_text(vrt("x.tif", band=' subClass="VRTDerivedRasterBand"', inner=code))


@case("a.vrt", "VRT_REFUSED")
def _vrt_reads_raw_bytes(ground: Ground, path: Path) -> object:
    return path.write_text(vrt("/etc/passwd", band=' subClass="VRTRawRasterBand"'))


@case("a.vrt", "VRT_REFUSED")
def _vrt_has_an_overview_elsewhere(ground: Ground, path: Path) -> object:
    overview = f"<Overview><SourceFilename>{ground.closed}/secret.tif</SourceFilename></Overview>"
    return path.write_text(vrt("x.tif", inner=overview))


@case("a.vrt", "CRS_INVALID")
def _vrt_takes_its_crs_from_a_file(ground: Ground, path: Path) -> object:
    return path.write_text(vrt("x.tif", srs="/etc/passwd"))


@case("a.vrt", "CRS_INVALID")
def _vrt_takes_its_crs_from_the_network(ground: Ground, path: Path) -> object:
    return path.write_text(vrt("x.tif", srs=ground.url))


@case("a.vrt", "VRT_REFUSED")
def _vrt_is_an_entity_bomb(ground: Ground, path: Path) -> object:
    return path.write_text(entity_bomb(vrt("x.tif", inner="<Description>&e10;</Description>")))


@case("a.vrt", "VRT_REFUSED")
def _vrt_has_an_external_entity(ground: Ground, path: Path) -> object:
    document = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{ground.closed}/secret.txt">]>'
    return path.write_text(document + vrt("x.tif", inner="<Description>&e;</Description>"))


@case("a.vrt", "VRT_REFUSED")
def _vrt_is_nested_deeply(ground: Ground, path: Path) -> object:
    return path.write_text("<VRTDataset>" + "<VRTRasterBand>" * 200_000)


@case("a.vrt", "DECLARED_SIZE_TOO_LARGE")
def _vrt_claims_a_million_by_a_million(ground: Ground, path: Path) -> object:
    write_raster(path.parent / "x.tif", textured(1, 32, 32, "uint8"))
    return path.write_text(vrt("x.tif", relative=1, size=1_000_000))


@case("a.vrt", "VRT_REFUSED")
def _vrt_is_very_long(ground: Ground, path: Path) -> object:
    return path.write_text("<VRTDataset>" + " " * (17 << 20) + "</VRTDataset>")


def archive(path: Path, *members: tuple[Any, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members:
            made.writestr(name, content)


def raster_bytes(directory: Path) -> bytes:
    path = write_raster(directory / "member.tif", textured(1, 32, 32, "uint8"))
    content = path.read_bytes()
    path.unlink()
    return content


def patched_sizes(path: Path, claimed: int) -> None:
    """Let the directory of an archive of one member claim another size for it."""
    content = bytearray(path.read_bytes())
    central = content.rfind(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", claimed)
    content[22:26] = struct.pack("<I", claimed)
    path.write_bytes(content)


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_bomb(ground: Ground, path: Path) -> object:
    archive(path, ("a.tif", b"II*\0" + bytes(20 << 20)))
    return patched_sizes(path, 0xFFFFFFF0)


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_holds_more_than_it_says(ground: Ground, path: Path) -> object:
    archive(path, ("a.tif", b"II*\0" + bytes(20 << 20)))
    return patched_sizes(path, 5000)


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_leads_out_of_itself(ground: Ground, path: Path) -> object:
    return archive(path, ("../../../../tmp/geoworker-escaped.tif", raster_bytes(path.parent)))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_has_an_absolute_name(ground: Ground, path: Path) -> object:
    return archive(path, (f"{ground.closed}/planted.tif", raster_bytes(path.parent)))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_leads_out_of_itself_as_on_windows(ground: Ground, path: Path) -> object:
    return archive(path, ("..\\..\\planted.tif", raster_bytes(path.parent)))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_has_a_symbolic_link(ground: Ground, path: Path) -> object:
    link = zipfile.ZipInfo("a.tif")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return archive(path, (link, f"{ground.closed}/secret.tif".encode()))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_in_a_zip(ground: Ground, path: Path) -> object:
    archive(path.parent / "inner.zip", ("a.tif", raster_bytes(path.parent)))
    return archive(path, ("inner.zip", (path.parent / "inner.zip").read_bytes()))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_of_two_rasters(ground: Ground, path: Path) -> object:
    content = raster_bytes(path.parent)
    return archive(path, ("a.tif", content), ("b.tif", content))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_of_very_many_members(ground: Ground, path: Path) -> object:
    return archive(path, *((f"{number}.txt", b"") for number in range(20_000)))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_with_a_huge_directory(ground: Ground, path: Path) -> object:
    return archive(path, *((f"{'n' * 200}{number}.txt", b"") for number in range(20_000)))


@case("a.zip", "CORRUPT_DATA")
def _zip_of_a_broken_hdf5(ground: Ground, path: Path) -> object:
    return archive(path, ("a.nc", b"\x89HDF\r\n\x1a\n" + bytes(100)))


@case("a.zip", "ARCHIVE_REFUSED")
def _zip_that_was_cut_short(ground: Ground, path: Path) -> object:
    archive(path, ("a.tif", raster_bytes(path.parent)))
    return path.write_bytes(path.read_bytes()[:-30])


@case("a.tif", "DECLARED_SIZE_TOO_LARGE")
def _header_claims_a_million_by_a_million(ground: Ground, path: Path) -> object:
    return path.write_bytes(huge_header(1_000_000, 1_000_000))


@case("a.tif", "TRUNCATED")
def _tiles_are_cut_short(ground: Ground, path: Path) -> object:
    pixels = np.random.default_rng(1).integers(0, 255, (1, 512, 512)).astype("uint8")
    write_raster(path, pixels, tiled=True, blockxsize=128, blockysize=128)
    return os.truncate(path, path.stat().st_size - 50_000)


@case("link.tif", "SOURCE_NOT_ALLOWED")
def _link_out_of_the_allowed_directory(ground: Ground, path: Path) -> object:
    return path.symlink_to(ground.closed / "secret.tif")


@case("a.nc", "FORMAT_NOT_ALLOWED")
def _hdf5_takes_its_values_from_another_file(ground: Ground, path: Path) -> object:
    with h5py.File(path, "w") as file:
        file.create_dataset("v", (16, 16), "u1", external=[(f"{ground.closed}/secret.tif", 0, 256)])
    return None


@case("a.nc", "FORMAT_NOT_ALLOWED")
def _hdf5_links_to_another_file(ground: Ground, path: Path) -> object:
    with h5py.File(path, "w") as file:
        file.create_group("g")["v"] = h5py.ExternalLink(f"{ground.closed}/secret.h5", "/v")
    return None


@case("a.nc", "FORMAT_NOT_ALLOWED")
def _hdf5_is_a_virtual_dataset(ground: Ground, path: Path) -> object:
    layout = h5py.VirtualLayout((16, 16), "u1")
    layout[:] = h5py.VirtualSource(f"{ground.closed}/secret.h5", "v", (16, 16))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("v", layout)
    return None


OUTSIDE = {
    "a_text_of_the_machine": ("/etc/passwd", "SOURCE_NOT_ALLOWED"),
    "a_file_url_of_it": ("file:///etc/passwd", "SOURCE_NOT_ALLOWED"),
    "its_own_environment": ("/proc/self/environ", "SOURCE_NOT_ALLOWED"),
    "a_file_system_of_gdal": ("/vsicurl/http://127.0.0.1/a.tif", "SOURCE_NOT_SUPPORTED"),
    "an_archive_by_gdal": ("/vsizip//etc/a.zip", "SOURCE_NOT_SUPPORTED"),
    "a_url_of_the_cloud_machine": ("http://169.254.169.254/metadata/instance", "SOURCE_NOT_ALLOWED"),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, FileServer]]:
    root = tmp_path_factory.mktemp("hostile")
    (root / "closed").mkdir()
    write_raster(root / "closed" / "secret.tif", textured(1, 32, 32, "uint8"), tags={"SECRET": SECRET})
    (root / "closed" / "secret.txt").write_text(SECRET)
    with h5py.File(root / "closed" / "secret.h5", "w") as file:
        file["v"] = np.zeros((16, 16), "u1")
    (root / "open").mkdir()
    with file_server() as server:
        yield Ground(root / "open", root / "closed", server.serve("/internal.tif", b"II*\0")), server


@pytest.fixture(scope="module")
def outcomes(ground: tuple[Ground, FileServer], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of every case, by its name."""
    place, _ = ground
    sources = {name: source for name, (source, _) in OUTSIDE.items()}
    for name, (file_name, _, maker) in CASES.items():
        directory = place.open / name
        directory.mkdir()
        maker(place, directory / file_name)
        sources[name] = str(directory / file_name)
    environment = {
        **os.environ,
        "SOURCE_ALLOWED_ROOTS": str(place.open),
        "DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "LOG_FORMAT": "json",
    }
    child = subprocess.run(
        [sys.executable, "-m", "tests.hostile_child"],
        input="\n".join(sources.values()) + "\n",
        capture_output=True,
        text=True,
        env=environment,
        timeout=110,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4000:]
    told = {outcome["source"]: outcome for outcome in map(json.loads, child.stdout.splitlines())}
    return {name: told[source] for name, source in sources.items()}


@pytest.mark.parametrize("name", [*CASES, *OUTSIDE])
def test_it_is_refused_clearly_in_bounded_time_and_memory(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    outcome = outcomes[name]
    code = CASES[name][1] if name in CASES else OUTSIDE[name][1]
    assert outcome["code"] == code, outcome["message"]
    assert outcome["retryable"] is False
    assert len(outcome["message"]) < 1000
    assert SECRET not in outcome["message"]
    assert outcome["grown"] < MAX_GROWN
    assert outcome["cpu_seconds"] < MAX_CPU_SECONDS


def test_nothing_was_asked_of_the_network(
    ground: tuple[Ground, FileServer], outcomes: dict[str, dict[str, Any]]
) -> None:
    assert ground[1].asked == []


def test_nothing_was_written_elsewhere(ground: tuple[Ground, FileServer], outcomes: dict[str, dict[str, Any]]) -> None:
    assert {path.name for path in ground[0].closed.iterdir()} == {"secret.tif", "secret.txt", "secret.h5"}
    assert not Path("/tmp/geoworker-escaped.tif").exists()


def test_an_entity_bomb_in_the_metadata_of_a_tiff_is_text(ground: tuple[Ground, FileServer], tmp_path: Path) -> None:
    """GDAL's own parser of a TIFF's metadata expands nothing: the raster is read, and the bomb stays a few bytes."""
    bomb = entity_bomb("<GDALMetadata><Item name='X'>&e10;</Item></GDALMetadata>")
    path = write_raster(tmp_path / "a.tif", textured(1, 32, 32, "uint8"), tags={"X": "y" * (len(bomb) + 200)})
    content = path.read_bytes()
    start = content.index(b"<GDALMetadata>")
    end = content.index(b"</GDALMetadata>") + len("</GDALMetadata>")
    path.write_bytes(content[:start] + bomb.encode().ljust(end - start) + content[end:])
    child = subprocess.run(
        [sys.executable, "-m", "tests.hostile_child"],
        input=f"{path}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "DATA_DIR": str(tmp_path / "data")},
    )
    outcome = json.loads(child.stdout)
    assert outcome["code"] in {None, "CORRUPT_DATA"}
    assert outcome["grown"] < MAX_GROWN
    assert outcome["cpu_seconds"] < MAX_CPU_SECONDS
