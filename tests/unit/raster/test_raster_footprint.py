"""Footprints: right at the antimeridian, at the poles, at the limb and off the Earth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shapely.geometry import Point, box, shape

from services.raster.errors import RasterError
from services.raster.footprint import Footprint, footprint
from services.raster.gdal import gdal_environment
from services.raster.profile import Georeferencing, Profile, parsed_crs
from services.raster.source import Source
from services.raster.validation import validate
from tests.raster_support import RASTERS


def profile(crs: str, transform: Affine, width: int = 100, height: int = 100) -> Profile:
    return Profile(
        driver="GTiff",
        shape=(height, width),
        count=1,
        dtypes=("uint8",),
        nodata=(None,),
        crs=parsed_crs(crs),
        transform=transform,
        georeferencing=Georeferencing.TRANSFORM,
        gcp_bounds=None,
        colorinterp=("gray",),
        descriptions=(None,),
        units=(None,),
        mask_flags=(("all_valid",),),
        block_shape=(height, width),
        overviews=(),
        compression=None,
        has_colormap=False,
        declared_bytes=width * height,
        file_bytes=width * height,
    )


def placed(crs: str, transform: Affine, width: int = 100, height: int = 100) -> Footprint:
    found = footprint(profile(crs, transform, width, height))
    assert found is not None
    assert_follows_rfc_7946(found)
    return found


def assert_follows_rfc_7946(found: Footprint) -> None:
    geometry = shape(found.geometry)
    assert geometry.is_valid
    assert geometry.area > 0
    west, south, east, north = found.bbox
    left, bottom, right, top = geometry.bounds
    assert left >= -180
    assert right <= 180
    assert (bottom, top) == pytest.approx((south, north), abs=1e-6)
    if west < east:
        assert (left, right) == pytest.approx((west, east), abs=1e-6)
    for polygon in getattr(geometry, "geoms", [geometry]):
        assert polygon.exterior.is_ccw


def of_file(name: str) -> Footprint | None:
    with gdal_environment():
        return footprint(validate(Source.of_file(RASTERS / name)).profile)


def test_a_raster_in_degrees_is_its_own_box() -> None:
    found = placed("EPSG:4326", Affine(0.01, 0, 10, 0, -0.01, 50))
    assert found.bbox == (10.0, 49.0, 11.0, 50.0)
    assert len(found.geometry["coordinates"][0]) == 5


@pytest.mark.parametrize(
    ("crs", "transform", "width", "height"),
    [
        ("EPSG:4326", Affine(0.1, 0, -180, 0, -0.1, 90), 3600, 1800),
        ("EPSG:4326", Affine(0.1, 0, 0, 0, -0.1, 90), 3600, 1800),
        ("EPSG:4326", Affine(0.1, 0, -180, 0, 0.1, -90), 3600, 1800),
    ],
    ids=["-180..180", "0..360", "south-up"],
)
def test_the_whole_world(crs: str, transform: Affine, width: int, height: int) -> None:
    found = placed(crs, transform, width, height)
    assert found.bbox == (-180.0, -90.0, 180.0, 90.0)
    assert shape(found.geometry).area == pytest.approx(360 * 180)


def test_the_world_in_web_mercator() -> None:
    edge = 20037508.342789244
    found = placed("EPSG:3857", Affine(2 * edge / 512, 0, -edge, 0, -2 * edge / 512, edge), 512, 512)
    assert found.bbox == pytest.approx((-180, -85.0511288, 180, 85.0511288), abs=1e-6)


@pytest.mark.parametrize("left", [178.0, -182.0], ids=["beyond +180", "beyond -180"])
def test_degrees_across_the_antimeridian_are_cut_there(left: float) -> None:
    found = placed("EPSG:4326", Affine(0.04, 0, left, 0, -0.01, -17))
    assert found.bbox == (178.0, -18.0, -178.0, -17.0)
    assert found.geometry["type"] == "MultiPolygon"
    assert shape(found.geometry).area == pytest.approx(4.0)


def test_utm_across_the_antimeridian() -> None:
    found = of_file("riotiler__cog_dateline.tif")
    assert found is not None
    assert_follows_rfc_7946(found)
    west, south, east, north = found.bbox
    assert west > east
    assert (west, south, east, north) == pytest.approx((177.9986, 50.5819, -178.5138, 52.7737), abs=1e-3)
    assert shape(found.geometry).area < 10


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3031", -90.0), ("EPSG:3413", 90.0), ("EPSG:6932", -90.0)])
def test_a_raster_around_a_pole_holds_it(crs: str, pole: float) -> None:
    found = placed(crs, Affine(20_000, 0, -1e6, 0, -20_000, 1e6))
    west, south, east, north = found.bbox
    assert (west, east) == (-180.0, 180.0)
    assert pole in {south, north}
    geometry = shape(found.geometry)
    for longitude in (-179.9, -90, 0.1, 90, 179.9):
        assert geometry.covers(Point(longitude, pole - np.sign(pole) * 2))
        assert not geometry.covers(Point(longitude, -pole / 2))


def test_a_polar_raster_beside_the_pole_does_not_hold_it() -> None:
    found = placed("EPSG:3031", Affine(1000, 0, 1e6, 0, -1000, 1e6))
    assert found.bbox[1] > -80
    assert found.bbox[2] - found.bbox[0] < 10


def test_a_geostationary_disk_is_outlined_at_its_limb() -> None:
    found = of_file("rasterio__goes.tif")
    assert found is not None
    assert_follows_rfc_7946(found)
    west, south, east, north = found.bbox
    assert (west, east) == pytest.approx((-156.3, 6.3), abs=0.5)
    assert (south, north) == pytest.approx((-81.3, 81.3), abs=0.5)
    assert shape(found.geometry).covers(Point(-75, 0))


def test_a_geostationary_disk_over_the_pacific_crosses_the_antimeridian() -> None:
    half = 5_500_000
    crs = "+proj=geos +h=35785831 +lon_0=140.7 +sweep=y +ellps=WGS84"
    found = placed(crs, Affine(2 * half / 500, 0, -half, 0, -2 * half / 500, half), 500, 500)
    assert found.bbox[0] > found.bbox[2]
    assert shape(found.geometry).covers(Point(-160, 0))
    assert shape(found.geometry).covers(Point(140, 0))
    assert not shape(found.geometry).covers(Point(0, 0))


def test_corners_beyond_a_pseudocylindrical_world_are_left_out() -> None:
    half = 20_015_109.354
    found = placed("+proj=sinu +lon_0=0 +R=6371007.181", Affine(half / 50, 0, -half, 0, -half / 100, half / 2))
    geometry = shape(found.geometry)
    assert geometry.is_valid
    assert geometry.covers(Point(0, 0))


def test_a_raster_on_mars_has_no_footprint() -> None:
    assert of_file("riotiler__cog_hirise_mars.tif") is None


def test_a_rotated_raster_is_outlined_by_its_corners() -> None:
    found = placed("EPSG:32633", Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(100, -100))
    west, south, east, north = found.bbox
    assert shape(found.geometry).area < 0.8 * (east - west) * (north - south)


def test_nothing_on_earth(tmp_path: Path) -> None:
    with pytest.raises(RasterError) as caught:
        footprint(profile("+proj=geos +h=35785831 +lon_0=0 +ellps=WGS84", Affine(1, 0, 9e6, 0, -1, 9e6)))
    assert caught.value.code == "CRS_NOT_TRANSFORMABLE"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    zone=st.integers(1, 60),
    south=st.booleans(),
    x=st.floats(100_000, 900_000),
    y=st.floats(200_000, 9_000_000),
    size=st.floats(1, 3_000),
    turn=st.floats(0, 360),
)
def test_every_utm_raster_has_a_small_footprint_that_holds_its_middle(
    *, zone: int, south: bool, x: float, y: float, size: float, turn: float
) -> None:
    from pyproj import Transformer

    crs = f"EPSG:{(32700 if south else 32600) + zone}"
    transform = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(size, -size)
    raster = profile(crs, transform)
    found = footprint(raster)
    assert found is not None
    assert_follows_rfc_7946(found)
    middle = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*raster.ground(50, 50))
    if found.bbox[0] > found.bbox[2] or found.bbox[2] - found.bbox[0] < 300:
        assert shape(found.geometry).buffer(1e-6).covers(Point((middle[0] + 180) % 360 - 180, middle[1]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    west=st.floats(-180, 180),
    north=st.floats(-89, 90),
    exponents=st.tuples(st.floats(-8, -1), st.floats(-8, -1)),
    turn=st.sampled_from([0, 0, 17, 90]),
    pixels=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
@example(west=-180, north=90, exponents=(-8.0, -4.0), turn=0, pixels=(3, 2))
def test_the_smallest_and_thinnest_raster_has_a_footprint(
    *, west: float, north: float, exponents: tuple[float, float], turn: float, pixels: tuple[int, int]
) -> None:
    across, down = (10**exponent for exponent in exponents)
    transform = Affine.translation(west, north) @ Affine.scale(across, -down) @ Affine.rotation(turn)
    found = footprint(profile("EPSG:4326", transform, *pixels))
    assert found is not None
    assert_follows_rfc_7946(found)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    crs=st.sampled_from(["EPSG:3031", "EPSG:3413"]),
    x=st.floats(-1e6, 1e6),
    y=st.floats(-1e6, 1e6),
    size=st.floats(0.1, 5_000),
    turn=st.floats(0, 360),
    mirrored=st.booleans(),
)
@example(crs="EPSG:3031", x=-57_000, y=80_000, size=5_000, turn=0.0, mirrored=True)
def test_every_polar_raster_has_a_footprint_that_holds_its_middle(
    *, crs: str, x: float, y: float, size: float, turn: float, mirrored: bool
) -> None:
    from pyproj import Transformer

    scale = Affine.scale(-size if mirrored else size, -size)
    transform = Affine.translation(x, y) @ Affine.rotation(turn) @ scale @ Affine.translation(-40, -60)
    raster = profile(crs, transform)
    found = footprint(raster)
    assert found is not None
    assert_follows_rfc_7946(found)
    pole = Point(~transform @ (0.0, 0.0))
    if box(0, 0, 100, 100).exterior.distance(pole) > 10:  # an edge that passes the pole turns faster than its points
        middle = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*raster.ground(50, 50))
        assert shape(found.geometry).buffer(1e-6).covers(Point(middle))
