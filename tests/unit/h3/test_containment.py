"""Containment against the H3 library, h3ronpy and shapely."""

from __future__ import annotations

from functools import partial

import h3.api.numpy_int as h3
import numpy as np
import pytest
import shapely
from h3ronpy import ContainmentMode
from h3ronpy.vector import geometry_to_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from services.h3 import bits, geodesy
from services.h3.area import resolve_area
from services.h3.containment import Region, count, select, select_in_chunks
from services.h3.grid import Containment
from tests.h3_support import boundary, concatenated, library_cells

EVERYWHERE = bits.base_cells()
RONPY = {
    Containment.CENTER: ContainmentMode.ContainsCentroid,
    Containment.FULL: ContainmentMode.ContainsBoundary,
    Containment.OVERLAP: ContainmentMode.IntersectsBoundary,
}


def ours(geometry: BaseGeometry, resolution: int, mode: Containment) -> bits.Cells:
    return select(Region(geometry), EVERYWHERE, resolution, mode)


@pytest.mark.parametrize("mode", list(Containment))
@pytest.mark.parametrize(
    ("name", "resolutions"),
    [("rwanda", range(9)), ("lesotho", range(8)), ("south_africa", range(6)), ("fiji", range(7))],
)
def test_countries_have_the_cells_of_two_independent_libraries(
    name: str, resolutions: range, mode: Containment
) -> None:
    geometry = boundary(name)
    for resolution in resolutions:
        found = ours(geometry, resolution, mode)
        assert np.array_equal(found, library_cells(geometry, resolution, mode)), resolution
        parts = [geometry_to_cells(part, resolution, RONPY[mode]) for part in shapely.get_parts(geometry)]
        other = np.unique(np.concatenate([np.asarray(part) for part in parts])).astype(np.int64)
        assert np.array_equal(found, other), resolution
        assert count(Region(geometry), EVERYWHERE, resolution, mode) == len(found)


def test_rwandas_counts_at_resolution_9() -> None:
    region = Region(boundary("rwanda"))
    found = {mode: count(region, EVERYWHERE, 9, mode) for mode in Containment}
    assert found == {Containment.CENTER: 212_070, Containment.FULL: 210_672, Containment.OVERLAP: 213_483}


centre_longitudes = st.floats(-160, 160)
centre_latitudes = st.floats(-75, 75)


@st.composite
def polygons(draw: st.DrawFn) -> BaseGeometry:
    """A star around a point, sometimes with a hole: simple, narrower than 180 degrees, away from the antimeridian."""
    corners = draw(st.integers(3, 14))
    size = draw(st.floats(0.02, 14))
    radii = np.array(draw(st.lists(st.floats(0.15, 1.0), min_size=corners, max_size=corners))) * size
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + draw(st.floats(0, 6))
    lng, lat = draw(centre_longitudes), draw(centre_latitudes)
    ring = np.column_stack([lng + radii * np.cos(angles), lat + radii * np.sin(angles)])
    holes = []
    if draw(st.booleans()):
        inner = radii.min() * draw(st.floats(0.2, 0.4))
        holes = [np.column_stack([lng + inner * np.cos(angles), lat + inner * np.sin(angles)])]
    return shapely.Polygon(ring, holes)


@settings(max_examples=120, deadline=None)
@given(polygons(), st.sampled_from(Containment), st.integers(0, 3))
def test_any_polygon_has_the_librarys_cells(polygon: BaseGeometry, mode: Containment, finer: int) -> None:
    west, south, east, north = polygon.bounds
    size = max(east - west, north - south)
    resolution = int(np.clip(np.log(60 / size) / np.log(np.sqrt(7)), 0, 12)) + finer
    found = ours(polygon, resolution, mode)
    wanted = library_cells(polygon, resolution, mode)
    assert (np.diff(found) > 0).all()
    missing, extra = np.setdiff1d(wanted, found), np.setdiff1d(found, wanted)
    # The library draws a cell that holds a pole as a ring that steps over the antimeridian, which is no such cell.
    assert np.isin(missing, geodesy.polar_cells(resolution)).all()
    # And it passes over a cell whose centre lies in a hole that lies wholly in the cell: that cell does overlap.
    extra = np.setdiff1d(extra, geodesy.polar_cells(resolution))
    assert not len(extra) or (mode is Containment.OVERLAP and _hole_within(polygon, extra, resolution))


def _hole_within(polygon: BaseGeometry, cells: bits.Cells, resolution: int) -> bool:
    shapes = geodesy.polygons(cells, resolution)
    holes = [shapely.Polygon(ring) for ring in polygon.interiors]
    return bool(holes) and bool(shapely.covers(shapes, holes[0]).all())


@pytest.mark.parametrize("mode", list(Containment))
@pytest.mark.parametrize("resolution", [0, 1, 2, 3])
@pytest.mark.parametrize("code", ["RUS", "ATA", "FJI", "KIR", "USA", "NZL", "LAND"])
def test_descent_agrees_with_asking_every_cell_of_the_earth(code: str, resolution: int, mode: Containment) -> None:
    region = Region(_country(code))
    every = bits.children(EVERYWHERE, resolution)
    assert np.array_equal(select(region, EVERYWHERE, resolution, mode), every[region.contains(every, resolution, mode)])


_countries: dict[str, BaseGeometry] = {}


def _country(code: str) -> BaseGeometry:
    if code not in _countries:
        _countries[code] = resolve_area(code).geometry
    return _countries[code]


@pytest.mark.parametrize("mode", list(Containment))
def test_across_the_antimeridian_the_answer_is_the_librarys_for_the_polygon_in_one_piece(mode: Containment) -> None:
    """Fiji's Taveuni: h3-py is given the island uncut, as a ring that steps over 180 degrees."""
    ring = [(179.8, -17.0), (-179.8, -16.9), (-179.75, -16.6), (179.9, -16.5)]
    uncut = h3.LatLngPoly([(lat, lng) for lng, lat in ring])
    wanted = np.sort(h3.h3shape_to_cells_experimental(uncut, 7, str(mode))).astype(np.int64)
    geometry = shapely.union_all(
        [
            shapely.intersection(shapely.Polygon([(x % 360, y) for x, y in ring]), shapely.box(0, -90, 180, 90)),
            shapely.transform(
                shapely.intersection(shapely.Polygon([(x % 360, y) for x, y in ring]), shapely.box(180, -90, 360, 90)),
                lambda points: points - [360.0, 0.0],
            ),
        ]
    )
    assert len(wanted) > 20
    assert np.array_equal(ours(geometry, 7, mode), wanted)


@pytest.mark.parametrize("box", [(-170, -10, 170, 10), (-180, -90, 180, 90), (-180, 60, 180, 90), (-120, -40, 100, 70)])
def test_wide_boxes_have_every_cell_whose_centre_they_hold(box: tuple[float, float, float, float]) -> None:
    west, south, east, north = box
    every = bits.children(EVERYWHERE, 2)
    longitudes, latitudes = geodesy.centres(every)
    inside = (longitudes > west) & (longitudes < east) & (latitudes > south) & (latitudes < north)
    assert np.array_equal(ours(resolve_area(list(box)).geometry, 2, Containment.CENTER), every[inside])


def test_the_whole_earth_is_full_of_cells() -> None:
    earth = resolve_area([-180, -90, 180, 90]).geometry
    for mode in Containment:
        assert len(ours(earth, 3, mode)) == h3.get_num_cells(3)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_a_cap_at_the_pole_holds_the_polar_cell(pole: float) -> None:
    south, north = sorted([pole, pole * 0.93])
    cap = resolve_area([-180.0, south, 180.0, north])
    for mode in Containment:
        found = ours(cap.geometry, 3, mode)
        assert int(h3.latlng_to_cell(pole, 0, 3)) in found.tolist()
        centres = library_cap(pole, 3)
        if mode is Containment.CENTER:
            assert np.array_equal(found, centres)


def library_cap(pole: float, resolution: int) -> bits.Cells:
    every = bits.children(EVERYWHERE, resolution)
    _, latitudes = geodesy.centres(every)
    return every[np.abs(latitudes - pole) < abs(pole) * 0.07]


def test_cells_around_a_pentagon_are_the_librarys() -> None:
    pentagon = int(h3.get_pentagons(2)[3])
    lat, lng = h3.cell_to_latlng(pentagon)
    polygon = shapely.Polygon(shapely.box(lng - 3, lat - 3, lng + 3.1, lat + 3.2))
    for mode in Containment:
        for resolution in (2, 3, 4, 5):
            assert np.array_equal(ours(polygon, resolution, mode), library_cells(polygon, resolution, mode))


def test_neighbours_share_no_cell_by_centre_and_leave_none_out() -> None:
    south_africa, lesotho = boundary("south_africa"), boundary("lesotho")
    one, other = (ours(geometry, 6, Containment.CENTER) for geometry in (south_africa, lesotho))
    both = ours(shapely.union_all([south_africa, lesotho]), 6, Containment.CENTER)
    assert not len(np.intersect1d(one, other))
    assert np.array_equal(np.union1d(one, other), both)


def test_a_place_smaller_than_cells_has_no_centre_but_overlaps() -> None:
    san_marino = resolve_area("SMR").geometry
    assert len(ours(san_marino, 4, Containment.CENTER)) == 0
    assert len(ours(san_marino, 4, Containment.OVERLAP)) >= 1
    assert np.array_equal(ours(san_marino, 4, Containment.OVERLAP), library_cells(san_marino, 4, Containment.OVERLAP))


def test_chunks_are_the_whole_in_order() -> None:
    region = Region(boundary("rwanda"))
    chunks = list(select_in_chunks(region, EVERYWHERE, 8, Containment.CENTER, chunk=2500))
    assert len(chunks) > 10
    assert all(len(chunk) <= 2500 for chunk in chunks)
    assert np.array_equal(concatenated(chunks), select(region, EVERYWHERE, 8, Containment.CENTER))


@pytest.mark.parametrize(("resolution", "finer"), [(0, 3), (1, 4), (2, 4)])
def test_no_descendant_reaches_past_the_radius_that_decides_for_it(resolution: int, finer: int) -> None:
    """Every vertex of every descendant, for all cells of the Earth: the bound that makes the descent exact."""
    cells = bits.children(EVERYWHERE, finer)
    bound = geodesy.DESCENDANT_RADIUS * 7.0 ** (-resolution / 2)
    assert _reach(cells, finer, resolution).max() < bound * 0.96


@settings(max_examples=40, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(3, 11))
def test_nor_does_it_anywhere_else(lat: float, lng: float, resolution: int) -> None:
    cell = np.array([int(h3.latlng_to_cell(lat, lng, resolution))], dtype=np.int64)
    finer = resolution + 4
    bound = geodesy.DESCENDANT_RADIUS * 7.0 ** (-resolution / 2)
    assert _reach(bits.children(cell, finer), finer, resolution).max() < bound * 0.96


def _reach(cells: bits.Cells, resolution: int, ancestor: int) -> np.ndarray:
    """How far, in radians, each cell's farthest vertex is from its ancestor's centre."""
    shapes = shapely.from_wkb(np.asarray(geodesy.cells_to_wkb_polygons(cells.astype(np.uint64)).to_pylist()))
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    lng, lat = map(np.radians, geodesy.centres(bits.parents(cells, ancestor)))
    x, y = np.radians(points[:, 0]), np.radians(points[:, 1])
    half = partial(np.multiply, 0.5)
    hav = np.sin(half(y - lat[owner])) ** 2 + np.cos(y) * np.cos(lat[owner]) * np.sin(half(x - lng[owner])) ** 2
    return 2 * np.arcsin(np.sqrt(np.minimum(hav, 1.0)))
