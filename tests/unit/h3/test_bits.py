"""Bit arithmetic against the H3 library."""

from __future__ import annotations

import h3.api.numpy_int as h3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.h3 import bits
from tests.h3_support import concatenated

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)
resolutions = st.integers(0, 15)


def one(cell: int) -> bits.Cells:
    return np.array([cell], dtype=np.int64)


def test_base_cells_are_the_librarys() -> None:
    assert bits.base_cells().tolist() == sorted(map(int, h3.get_res0_cells()))


@pytest.mark.parametrize("resolution", range(5))
def test_children_of_all_base_cells_are_all_cells_sorted(resolution: int) -> None:
    found = bits.children(bits.base_cells(), resolution)
    assert len(found) == h3.get_num_cells(resolution)
    assert (np.diff(found) > 0).all()
    assert found[bits.is_pentagon(found)].tolist() == sorted(map(int, h3.get_pentagons(resolution)))


@given(latitudes, longitudes, resolutions, st.integers(0, 5))
def test_children_and_their_number_are_the_librarys(lat: float, lng: float, resolution: int, steps: int) -> None:
    finer = min(15, resolution + steps)
    cell = int(h3.latlng_to_cell(lat, lng, resolution))
    wanted = np.sort(h3.cell_to_children(cell, finer)).astype(np.int64)
    assert np.array_equal(bits.children(one(cell), finer), wanted)
    assert bits.descendant_counts(one(cell), finer).tolist() == [len(wanted)]
    assert bits.first_descendant(cell, finer) == wanted[0]
    assert bits.last_descendant(cell, finer) == wanted[-1]


@pytest.mark.parametrize("resolution", [0, 1, 4, 9])
def test_children_of_pentagons_lack_the_deleted_direction(resolution: int) -> None:
    for cell in h3.get_pentagons(resolution):
        wanted = np.sort(h3.cell_to_children(cell, resolution + 4)).astype(np.int64)
        assert np.array_equal(bits.children(one(int(cell)), resolution + 4), wanted)
        assert len(wanted) == bits.children_count(4, pentagon=True)


@given(latitudes, longitudes, resolutions, resolutions)
def test_parents_are_the_librarys(lat: float, lng: float, resolution: int, coarser: int) -> None:
    coarser = min(resolution, coarser)
    cell = int(h3.latlng_to_cell(lat, lng, resolution))
    assert bits.parents(one(cell), coarser).tolist() == [int(h3.cell_to_parent(cell, coarser))]
    assert bits.resolution_of(one(cell)).tolist() == [resolution]


@settings(max_examples=50)
@given(st.lists(st.tuples(latitudes, longitudes, st.integers(0, 4)), min_size=1, max_size=12), st.integers(1, 5000))
def test_mixed_descendants_are_sorted_whole_and_the_same_in_chunks(places: list[tuple], chunk: int) -> None:
    cells = [int(h3.latlng_to_cell(lat, lng, step)) for lat, lng, step in places]
    apart = [cell for cell in set(cells) if not any(_below(cell, other) for other in set(cells) - {cell})]
    mixed = np.array(apart, dtype=np.int64)
    wanted = np.sort(np.concatenate([h3.cell_to_children(cell, 4) for cell in apart])).astype(np.int64)
    assert np.array_equal(bits.mixed_descendants(mixed, 4), wanted)
    chunks = list(bits.descendants_in_chunks(mixed, 4, chunk))
    assert np.array_equal(concatenated(chunks), wanted)
    assert all(len(piece) <= max(chunk, 7**4) for piece in chunks)


def _below(cell: int, other: int) -> bool:
    finer, coarser = h3.get_resolution(cell), h3.get_resolution(other)
    return finer > coarser and int(h3.cell_to_parent(cell, coarser)) == other


def test_nothing_has_no_children() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert len(bits.children(nothing, 5)) == 0
    assert len(bits.mixed_descendants(nothing, 5)) == 0
