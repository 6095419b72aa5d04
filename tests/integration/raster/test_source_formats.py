"""Sources that are no plain GeoTIFF: archives, VRTs, variables of netCDF and HDF5, JPEG 2000."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from core.errors import PermanentError
from core.storage import LocalFiles, StorageRefused
from services.raster import sample_raster, subdatasets
from services.raster.complete import process
from services.raster.gdal import gdal_environment
from services.raster.parameters import CreateCog, ProcessRaster
from services.raster.steps import run_cog
from tests.raster_support import context_with, refusal, textured, validated, write_raster

PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)


def pixels_of(path: object) -> Any:
    with rasterio.open(path) as raster:
        return raster.read()


def zipped(tmp_path: Path, *members: tuple[Path, str]) -> Path:
    path = tmp_path / "delivery.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, name in members:
            archive.write(file, name)
    return path


def test_the_raster_of_an_archive_becomes_a_cog_with_its_own_name(tmp_path: Path) -> None:
    readme = tmp_path / "readme.txt"
    readme.write_text("not a raster")
    path = zipped(tmp_path, (sample_raster(), "delivery/scene 7.tif"), (readme, "readme.txt"))
    done = context_with(tmp_path)
    result = process(ProcessRaster(source_url=str(path), output_dir=str(tmp_path / "out")), done)
    assert result["validation"]["source_url"] == str(path)
    assert result["cog"]["validation"]["pixels_equal_source"] is True
    assert Path(result["cog"]["path"]).name == "scene_7.tif"
    np.testing.assert_array_equal(pixels_of(result["cog"]["path"]), pixels_of(sample_raster()))
    assert not (done.work_path / "source").exists()


def mosaic(directory: Path, left: str, right: str, relative: int = 1) -> Path:
    path = directory / "mosaic.vrt"
    sources = "".join(
        f"""<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand>
        <SourceProperties RasterXSize="99999" RasterYSize="99999" DataType="Byte" BlockXSize="99999" BlockYSize="1"/>
        <SrcRect xOff="0" yOff="0" xSize="40" ySize="30"/><DstRect xOff="{offset}" yOff="0" xSize="40" ySize="30"/>
        </SimpleSource>"""
        for name, offset in ((left, 0), (right, 40))
    )
    path.write_text(
        f"""<VRTDataset rasterXSize="80" rasterYSize="30"><SRS>EPSG:32633</SRS>
        <GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform><VRTRasterBand dataType="Byte" band="1">
        <NoDataValue>0</NoDataValue><ColorInterp>Gray</ColorInterp>{sources}</VRTRasterBand></VRTDataset>"""
    )
    return path


def test_a_vrt_over_rasters_beside_it_is_a_mosaic_of_them(tmp_path: Path) -> None:
    (tmp_path / "in" / "tiles").mkdir(parents=True)
    left = write_raster(tmp_path / "in" / "left.tif", textured(1, 30, 40, "uint8", 1))
    right = write_raster(tmp_path / "in" / "tiles" / "right.tif", textured(1, 30, 40, "uint8", 2))
    path = mosaic(tmp_path / "in", "left.tif", "tiles/right.tif")
    result = run_cog(CreateCog(source_url=str(path), output_dir=str(tmp_path / "out")), context_with(tmp_path))
    assert result["validation"]["pixels_equal_source"] is True
    expected = np.concatenate([pixels_of(left), pixels_of(right)], axis=2)
    np.testing.assert_array_equal(pixels_of(result["path"]), expected)


def test_a_vrt_may_name_a_geotiff_with_tags_in_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "left.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=30, count=1, dtype="uint8", crs="EPSG:32633", transform=PLACE
    ) as raster:
        raster.update_tags(season="winter")
        raster.write(textured(1, 30, 40, "uint8"))
    assert b"<GDALMetadata>" in path.read_bytes()[:1024]
    assert validated(mosaic(tmp_path, "left.tif", "left.tif"), tmp_path)["shape"] == [30, 80]


def test_a_vrt_may_name_rasters_below_a_listed_directory_only(tmp_path: Path) -> None:
    for name in ("in", "library", "closed"):
        (tmp_path / name).mkdir()
    write_raster(tmp_path / "library" / "a.tif", textured(1, 30, 40, "uint8", 1))
    write_raster(tmp_path / "closed" / "b.tif", textured(1, 30, 40, "uint8", 2))
    storage = LocalFiles([tmp_path / "in", tmp_path / "library"])
    library = f"{tmp_path}/library/a.tif"
    path = mosaic(tmp_path / "in", library, library, relative=0)
    assert validated(path, tmp_path, storage)["shape"] == [30, 80]
    path = mosaic(tmp_path / "in", library, f"{tmp_path}/closed/b.tif", relative=0)
    with pytest.raises(PermanentError) as caught:
        validated(path, tmp_path, storage)
    assert caught.value.code == "VRT_REFUSED"
    with pytest.raises(PermanentError, match="outside its own directory"):
        validated(mosaic(tmp_path / "in", library, library, relative=0), tmp_path)


def test_a_vrt_with_a_file_that_is_not_there(tmp_path: Path) -> None:
    write_raster(tmp_path / "left.tif", textured(1, 30, 40, "uint8", 1))
    error = refusal(mosaic(tmp_path, "left.tif", "right.tif"), tmp_path)
    assert error.code == "VRT_REFUSED"
    assert "right.tif" in str(error)


def test_the_only_variable_may_be_called_bounds(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    with h5py.File(path, "w") as file:
        file["forest_bounds"] = textured(1, 30, 40, "uint16")[0]
    assert refusal(path, tmp_path, input_crs="EPSG:32633").code == "NOT_GEOREFERENCED"


def test_a_vrt_with_a_file_that_is_cut_short(tmp_path: Path) -> None:
    write_raster(tmp_path / "left.tif", textured(1, 30, 40, "uint8", 1))
    right = write_raster(tmp_path / "right.tif", textured(1, 30, 40, "uint8", 2))
    right.write_bytes(right.read_bytes()[:-400])
    error = refusal(mosaic(tmp_path, "left.tif", "right.tif"), tmp_path)
    assert error.code == "VRT_REFUSED"
    assert "right.tif" in str(error)


def test_jpeg_2000(tmp_path: Path) -> None:
    path = tmp_path / "scene.jp2"
    with gdal_environment():
        copy(sample_raster(), path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    found = validated(path, tmp_path)
    assert found["driver"] == "JP2OpenJPEG"
    assert found["source_crs"] == "EPSG:32618"


@pytest.fixture
def netcdf(tmp_path: Path) -> Path:
    path = tmp_path / "climate.nc"
    with gdal_environment():
        copy(sample_raster(), path, driver="netCDF", FORMAT="NC4")
    return path


@pytest.mark.parametrize("form", ["NC", "NC4"])
def test_a_variable_of_a_netcdf_file_becomes_a_cog(form: str, tmp_path: Path) -> None:
    path = tmp_path / "climate.nc"
    with gdal_environment():
        copy(sample_raster(), path, driver="netCDF", FORMAT=form)
    params = CreateCog(source_url=str(path), subdataset="Band2", output_dir=str(tmp_path / "out"))
    result = run_cog(params, context_with(tmp_path))
    assert Path(result["path"]).name == "climate_Band2.tif"
    assert result["crs"] == "EPSG:32618"
    np.testing.assert_array_equal(pixels_of(result["path"])[0], pixels_of(sample_raster())[1])


@pytest.mark.parametrize("given", [{}, {"subdataset": "temperature"}])
def test_variables_must_be_named_and_the_error_lists_them(given: dict[str, str], netcdf: Path, tmp_path: Path) -> None:
    error = refusal(netcdf, tmp_path, **given)
    assert error.code == "SUBDATASET_NOT_FOUND"
    assert str(error).startswith("subdataset: ")
    assert error.details["available"] == ["Band1", "Band2", "Band3"]


@pytest.mark.parametrize("form", ["NC", "NC4"])
def test_the_only_variable_need_not_be_named(form: str, tmp_path: Path) -> None:
    one = write_raster(tmp_path / "one.tif", textured(1, 30, 40, "int16"))
    with gdal_environment():
        copy(one, tmp_path / "one.nc", driver="netCDF", FORMAT=form)
    assert validated(tmp_path / "one.nc", tmp_path)["shape"] == [30, 40]


def test_bounds_of_coordinates_are_no_variable_to_choose_from(tmp_path: Path) -> None:
    path = tmp_path / "one.nc"
    with h5py.File(path, "w") as file:
        file["temperature"] = textured(1, 30, 40, "float32")[0]
        for name, values in (("lat", np.arange(50, 20, -1.0)), ("lon", np.arange(0, 40, 1.0))):
            file[name] = values
            file[name].make_scale(name)
            file[name].attrs["units"] = np.bytes_("degrees_north" if name == "lat" else "degrees_east")
            file[name].attrs["bounds"] = np.bytes_(f"{name}_bnds")
            file[f"{name}_bnds"] = np.stack([values - 0.5, values + 0.5], axis=1)
        file["temperature"].dims[0].attach_scale(file["lat"])
        file["temperature"].dims[1].attach_scale(file["lon"])
    found = validated(path, tmp_path, input_crs="EPSG:4326")
    assert (found["shape"], found["bounds"]) == ([30, 40], pytest.approx([-0.5, 20.5, 39.5, 50.5]))


def test_a_variable_of_an_hdf5_file(tmp_path: Path) -> None:
    values = textured(1, 30, 40, "uint16")[0]
    path = tmp_path / "swath.h5"
    with h5py.File(path, "w") as file:
        file["science/grids/power"] = values
        file["science/grids/other"] = values[::-1]
    error = refusal(path, tmp_path)
    assert "science/grids/power" in error.details["available"]
    error = refusal(path, tmp_path, subdataset="power", input_crs="EPSG:32633")
    assert error.code == "NOT_GEOREFERENCED"


def test_a_driver_that_this_gdal_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "MOD09.hdf"
    path.write_bytes(b"\x0e\x03\x13\x01" + bytes(200))
    assert "HDF4" not in subdatasets.registered_drivers()
    error = refusal(path, tmp_path)
    assert error.code == "DRIVER_MISSING"
    assert "HDF4" in str(error)


def test_a_subdataset_of_a_plain_raster(tmp_path: Path) -> None:
    error = refusal(sample_raster(), tmp_path, subdataset="Band1")
    assert error.code == "OPTION_NOT_ALLOWED"
    assert str(error).startswith("subdataset: ")


def test_outputs_outside_the_allowed_directories(tmp_path: Path) -> None:
    storage = LocalFiles(None, [tmp_path / "mount"])
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (tmp_path / "elsewhere", tmp_path / "mount" / ".." / "elsewhere", tmp_path / "link"):
        params = CreateCog(source_url=str(sample_raster()), output_dir=str(place))
        with pytest.raises(StorageRefused) as caught:
            run_cog(params, context_with(tmp_path, storage))
        assert caught.value.code == "OUTPUT_NOT_ALLOWED"
        assert str(caught.value).startswith("output_dir: ")
    params = CreateCog(source_url=str(sample_raster()), output_dir=str(tmp_path / "mount" / "out"))
    assert run_cog(params, context_with(tmp_path, storage))["success"] is True
