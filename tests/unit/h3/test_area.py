"""Areas: what is accepted, what it comes to, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from pyproj import Geod

from core.errors import PermanentError
from services.h3 import countries, country_codes
from services.h3.antimeridian import canonical
from services.h3.area import resolve_area
from tests.h3_support import BOUNDARIES, boundary, rings


def refusal(area: Any, **options: Any) -> tuple[str | None, str]:
    with pytest.raises(PermanentError) as caught:
        resolve_area(area, **options)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("code", "name"), [("RWA", "rwanda"), ("FJI", "fiji"), ("LSO", "lesotho"), ("ZAF", "south_africa")]
)
def test_countries_that_ship_equal_the_boundary_files(code: str, name: str) -> None:
    known = canonical(boundary(name))
    assert shapely.equals_exact(countries.country(code).geometry, known)
    assert resolve_area(code.lower()).sha256 == resolve_area(str(BOUNDARIES / f"{name}.geojson")).sha256


def test_every_country_is_valid_lies_on_the_map_and_has_an_area() -> None:
    codes = country_codes.codes()
    assert len(codes) == 238
    assert {"RWA", "XKX", "USA", "GBR", "KIR", "ATA"} <= set(codes)
    for code in codes:
        geometry = countries.country(code).geometry
        west, south, east, north = geometry.bounds
        assert geometry.is_valid, code
        assert -180 <= west < east <= 180, code
        assert -90 <= south < north <= 90, code
        assert geometry.area > 0, code


@pytest.mark.parametrize(
    ("code", "bbox"),
    [
        ("FJI", (174.59, -21.71, -178.21, -12.47)),
        ("RUS", (19.61, 41.19, -168.99, 81.86)),
        ("KIR", (169.52, -11.46, -151.78, 4.72)),
        ("ATA", (-180.0, -90.0, 180.0, -60.52)),
        ("RWA", (28.86, -2.83, 30.89, -1.06)),
    ],
)
def test_boxes_cross_the_antimeridian_where_that_is_shorter(code: str, bbox: tuple[float, ...]) -> None:
    assert resolve_area(code).bbox == pytest.approx(bbox, abs=0.01)


@pytest.mark.parametrize(("code", "km2"), [("RWA", 25_302.7), ("RUS", 16_980_000), ("ATA", 12_358_000)])
def test_areas_are_ellipsoidal(code: str, km2: float) -> None:
    assert resolve_area(code).area_km2 == pytest.approx(km2, rel=2e-3)


def test_the_area_of_small_sides_agrees_with_geodesics() -> None:
    area = resolve_area("ZAF")
    geodesic = abs(Geod(ellps="WGS84").geometry_area_perimeter(area.geometry)[0]) / 1e6
    assert area.area_km2 == pytest.approx(geodesic, rel=1e-4)


def test_the_earth_has_its_area() -> None:
    assert resolve_area([-180, -90, 180, 90]).area_km2 == pytest.approx(510_065_621.7, abs=0.1)


def test_land_is_all_countries() -> None:
    land = resolve_area("LAND").geometry
    assert land.is_valid
    parts = shapely.get_parts([countries.country(code).geometry for code in country_codes.index()["countries"]])
    largest = parts[shapely.area(parts) > 1e-3]
    inside = shapely.point_on_surface(largest)
    shapely.prepare(land)
    assert len(inside) > 1000
    assert shapely.contains(land, inside).all()


def test_land_is_in_one_piece_where_polygons_meet() -> None:
    parts = shapely.get_parts(resolve_area("LAND").geometry)
    one, other = shapely.STRtree(parts).query(shapely.point_on_surface(parts), predicate="within")
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("given", "hint"), [("RWX", "RWA"), ("Rwanda", "RWA"), ("rw", "RWA"), ("Germny", "DEU"), ("VAT", "no ISO 3166")]
)
def test_unknown_countries_are_refused_with_the_closest(given: str, hint: str) -> None:
    code, message = refusal(given)
    assert code == "COUNTRY_UNKNOWN"
    assert repr(given) in message
    assert hint in message


def test_a_bbox_over_the_antimeridian_is_two_pieces() -> None:
    area = resolve_area([170, -20, -170, -10])
    assert sorted(part.bounds for part in shapely.get_parts(area.geometry)) == [
        (-180.0, -20.0, -170.0, -10.0),
        (170.0, -20.0, 180.0, -10.0),
    ]
    assert area.bbox == (170.0, -20.0, -170.0, -10.0)


def test_a_bbox_wider_than_180_degrees_is_taken_as_it_is_written() -> None:
    area = resolve_area([-170, -10, 170, 10])
    assert area.geometry.area == pytest.approx(340 * 20)
    assert area.bbox == (-170.0, -10.0, 170.0, 10.0)


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ([1, 2, 3], "four finite numbers"),
        ([1, 2, 3, float("nan")], "four finite numbers"),
        ([1, 5, 3, 2], "south below north"),
        ([1, 2, 1, 3], "south below north"),
        ([1000, 100, 2000, 120], "projected"),
        ([10, 95, 20, 100], "swapped"),
        ([185, 0, 190, 10], "-180..180"),
    ],
)
def test_impossible_boxes_are_refused(bbox: list[float], words: str) -> None:
    code, message = refusal(bbox)
    assert code in {"BAD_BBOX", "COORDINATES_OUT_OF_RANGE"}
    assert words in message


SQUARE = rings((0, 0), (1, 0), (1, 1), (0, 1))


@pytest.mark.parametrize(
    "document",
    [
        SQUARE,
        {"type": "Feature", "properties": {}, "geometry": SQUARE},
        {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": SQUARE}]},
        {"type": "GeometryCollection", "geometries": [SQUARE]},
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]},
        {**SQUARE, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}},
        rings((0, 0), (0, 1), (1, 1), (1, 0)),  # clockwise
        {"type": "Polygon", "coordinates": [[[*point, 12.5] for point in SQUARE["coordinates"][0]]]},  # with heights
    ],
)
def test_the_same_square_in_every_form(document: dict[str, Any]) -> None:
    assert resolve_area(document).geometry.equals(shapely.box(0, 0, 1, 1))
    assert resolve_area(document).sha256 == resolve_area([0, 0, 1, 1]).sha256


def test_parts_that_overlap_are_joined() -> None:
    other = rings((0.5, 0), (1.5, 0), (1.5, 1), (0.5, 1))
    area = resolve_area({"type": "GeometryCollection", "geometries": [SQUARE, other]})
    assert area.geometry.area == pytest.approx(1.5)
    assert area.geometry.is_valid


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        ({"type": "Point", "coordinates": [0, 0]}, "NOT_A_POLYGON", "holds a Point"),
        ({"type": "FeatureCollection", "features": []}, "NOT_A_POLYGON", "no polygon"),
        ({"hello": 1}, "NOT_GEOJSON", "no GeoJSON"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}, "NOT_GEOJSON", "four positions"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}, "NOT_GEOJSON", "end where it starts"),
        ({"type": "Polygon", "coordinates": [["a", "b", "c", "d"]]}, "NOT_GEOJSON", "longitude, latitude"),
        ({"type": "Polygon", "coordinates": []}, "NOT_GEOJSON", "no rings"),
        (rings((0, 0), (1, 1), (1, 0), (0, 1)), "INVALID_GEOMETRY", "Self-intersection"),
        (rings((0, 0), (1, 1), (2, 2)), "INVALID_GEOMETRY", "not valid"),
        (rings((500_000, 0), (500_001, 0), (500_001, 1)), "COORDINATES_OUT_OF_RANGE", "projected"),
        (rings((-1, 100), (1, 100), (1, 101)), "COORDINATES_OUT_OF_RANGE", "swapped"),
        (rings((-170, -10), (170, -10), (170, 10), (-170, 10)), "AMBIGUOUS_ANTIMERIDIAN", "either way round"),
        ({**SQUARE, "crs": {"type": "name", "properties": {"name": "EPSG:32735"}}}, "NOT_WGS84", "EPSG:32735"),
    ],
)
def test_unusable_geojson_is_refused(document: dict[str, Any], code: str, words: str) -> None:
    assert refusal(document)[0] == code
    assert words in refusal(document)[1]


def test_an_invalid_polygon_is_repaired_only_when_asked_and_says_so() -> None:
    bow_tie = rings((0, 0), (1, 1), (1, 0), (0, 1))
    area = resolve_area(bow_tie, repair=True)
    assert area.geometry.area == pytest.approx(0.5)
    assert area.notes


def test_a_boundary_that_steps_over_the_antimeridian_is_cut_there() -> None:
    """Fiji's own outline, uncut, as many files have it."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x, y = 180 + 0.5 * np.cos(angles), -17 + 0.5 * np.sin(angles)
    wrapped = np.where(x > 180, x - 360, x)
    area = resolve_area(rings(*zip(wrapped.tolist(), y.tolist(), strict=True)))
    assert area.geometry.bounds[0] == -180
    assert area.geometry.bounds[2] == 180
    assert area.geometry.area == pytest.approx(shapely.Polygon(np.column_stack([x, y])).area)
    assert area.bbox == pytest.approx((179.5, -17.5, -179.5, -16.5), abs=0.01)
    unrolled = resolve_area(rings(*zip(x.tolist(), y.tolist(), strict=True)))
    assert shapely.symmetric_difference(unrolled.geometry, area.geometry).area < 1e-9


def test_a_ring_around_a_pole_encloses_it() -> None:
    longitudes = np.arange(-180, 180, 5.0)
    area = resolve_area(rings(*[(float(lng), -75.0) for lng in longitudes]))
    assert shapely.contains_xy(area.geometry, 0, -89)
    assert not shapely.contains_xy(area.geometry, 0, -70)
    assert area.geometry.area == pytest.approx(360 * 15, rel=1e-6)


def swapped_rwanda() -> dict[str, Any]:
    ring = shapely.get_coordinates(boundary("rwanda"))[:, ::-1].tolist()
    return {"type": "Polygon", "coordinates": [ring]}


def test_swapped_axes_are_found_by_the_expected_country() -> None:
    code, message = refusal(swapped_rwanda(), expected_country="RWA")
    assert code == "OUTSIDE_EXPECTED_COUNTRY"
    assert "look swapped" in message
    assert resolve_area("RWA", expected_country="RWA").label == "RWA"


@pytest.mark.parametrize(
    ("content", "words"),
    [("not json", "no GeoJSON"), ("[1, 2]", "no GeoJSON object"), ('{"type": "Nonsense"}', "no GeoJSON")],
)
def test_files_that_are_no_geojson_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(content)
    assert words in refusal(str(path))[1]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "none.geojson"))[0] == "AREA_UNREADABLE"


def test_without_storage_no_url_is_called() -> None:
    code, message = refusal("https://example.org/a.geojson")
    assert code == "SOURCE_NOT_SUPPORTED"
    assert message.startswith("area: ")


def test_countries_at_a_place() -> None:
    assert countries.countries_at(shapely.box(29.5, -2.2, 30.2, -1.8)) == ["RWA"]
