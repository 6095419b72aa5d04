"""Statistics in parts equal those of the whole, and samples reach every corner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.raster.statistics import Accumulator, sample_windows
from tests.raster_support import write_raster

NOT_FINITE = [np.nan, np.inf, -np.inf]


@settings(max_examples=80, deadline=None)
@given(
    values=arrays.arrays(
        "float64", (7, 11), elements=st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf])
    ),
    mask=arrays.arrays(bool, (7, 11)),
    cut=st.integers(0, 7),
)
def test_windows_add_up_to_the_whole(values: np.ndarray, mask: np.ndarray, cut: int) -> None:
    accumulator = Accumulator()
    accumulator.add(values[:cut], mask[:cut])
    accumulator.add(values[cut:], mask[cut:])
    found = accumulator.result(exact=True)
    valid = values[mask & np.isfinite(values)]
    assert found.pixels == values.size
    assert found.non_finite == np.count_nonzero(mask & ~np.isfinite(values))
    assert found.valid_percent == pytest.approx(100 * valid.size / values.size)
    if not valid.size:
        assert (found.minimum, found.maximum, found.mean, found.stddev) == (None, None, None, None)
        return
    assert (found.minimum, found.maximum) == (valid.min(), valid.max())
    assert found.mean == pytest.approx(valid.mean(), rel=1e-9, abs=1e-6)
    assert found.stddev == pytest.approx(valid.std(), rel=1e-6, abs=1e-4)


def test_distinct_values_are_counted_up_to_a_limit() -> None:
    accumulator = Accumulator()
    accumulator.add(np.arange(200, dtype="int32"), np.ones(200, bool))
    assert accumulator.result(exact=True).distinct == 200
    accumulator.add(np.arange(100, 400, dtype="int32"), np.ones(300, bool))
    assert accumulator.result(exact=True).distinct is None


@pytest.mark.parametrize(
    "layout",
    [{}, {"tiled": True, "blockxsize": 256, "blockysize": 256}, {"blockysize": 3000}],
    ids=["strips", "tiles", "one block"],
)
def test_a_sample_is_bounded_and_reaches_every_corner(layout: dict[str, object], tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 3000, 2500), "uint8"), **layout)
    with rasterio.open(path) as dataset:
        windows, exact = sample_windows(dataset, budget=3_000_000)
        assert not exact
        assert sum(window.width * window.height for window in windows) <= 3_500_000
        rows = [window.row_off for window in windows] + [window.row_off + window.height for window in windows]
        columns = [window.col_off for window in windows] + [window.col_off + window.width for window in windows]
        assert (min(rows), max(rows), min(columns), max(columns)) == (0, 3000, 0, 2500)
        whole, exact = sample_windows(dataset, budget=7_500_000)
        assert exact
        assert sum(window.width * window.height for window in whole) == 7_500_000
