"""Exact statistics and histograms that do not depend on how a raster was cut."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.raster.tally import Tally


def tallied(values: np.ndarray, valid: np.ndarray | None = None) -> Tally:
    tally = Tally()
    tally.add(values, valid)
    return tally


@given(
    arrays.arrays(st.sampled_from(["uint8", "int8", "uint16", "int16"]), st.tuples(st.integers(1, 40), st.just(3))),
    st.integers(0, 40),
)
def test_whole_numbers_are_exact_however_they_are_cut(values: np.ndarray, cut: int) -> None:
    whole, parts = tallied(values), tallied(values[:cut])
    parts.merge(Tally.from_dict(json.loads(json.dumps(tallied(values[cut:]).as_dict()))))
    assert parts.result() == whole.result()
    assert parts.histogram() == whole.histogram()
    found = whole.result()
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert found.stddev == pytest.approx(values.std(dtype=np.float64), rel=1e-9, abs=1e-12)
    histogram = whole.histogram()
    assert histogram is not None
    assert sum(histogram["buckets"]) == values.size
    if found.maximum - found.minimum < 256:
        assert histogram["buckets"] == [int((values == v).sum()) for v in range(values.min(), int(values.max()) + 1)]


@given(
    arrays.arrays(
        st.sampled_from(["float32", "float64"]), st.integers(1, 300), elements={"min_value": -1e6, "max_value": 1e6}
    )
)
def test_floats_agree_with_numpy(values: np.ndarray) -> None:
    parts = tallied(values[: len(values) // 2])
    parts.merge(tallied(values[len(values) // 2 :]))
    found, histogram = parts.result(), parts.histogram()
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-9, abs=1e-9)
    assert found.stddev == pytest.approx(values.std(dtype=np.float64), rel=1e-6, abs=1e-6)
    assert histogram is not None
    assert sum(histogram["buckets"]) == len(values)


@pytest.mark.parametrize("value", [2.2e-308, 5e-324, -1e-320, 1e-300])
def test_numbers_next_to_nothing_are_counted(value: float) -> None:
    tally = tallied(np.array([value, 0.0, value]))
    assert (tally.minimum, tally.maximum, tally.valid) == (min(value, 0.0), max(value, 0.0), 3)
    histogram = tally.histogram()
    assert histogram is not None
    assert sum(histogram["buckets"]) == 3


def test_numbers_too_far_apart_have_no_histogram() -> None:
    tally = tallied(np.array([-1e200, 1e200, 3.0]))
    tally.merge(tallied(np.array([1.0, 2.0])))
    assert (tally.minimum, tally.maximum, tally.valid) == (-1e200, 1e200, 5)
    assert tally.histogram() is None


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_part_of_nothing_but_zeros_does_not_coarsen_the_histogram(order: slice) -> None:
    values = np.random.default_rng(5).uniform(0, 1, 20_000).astype("float32")
    parts = Tally()
    for piece in [np.zeros(20_000, "float32"), values][order]:
        parts.merge(tallied(piece))
    histogram = parts.histogram()
    assert histogram is not None
    assert np.count_nonzero(histogram["buckets"]) == len(histogram["buckets"]) == 256
    assert histogram["buckets"][0] == pytest.approx(20_000 + 20_000 / 512, abs=30)


def test_a_histogram_of_floats_is_that_of_numpy_within_a_bucket() -> None:
    values = np.random.default_rng(3).normal(800, 120, 50_000).astype("float32")
    parts = Tally()
    for piece in np.array_split(values, 7):
        parts.add(piece, None)
    histogram = parts.histogram()
    assert histogram is not None
    step = (values.max() - values.min()) / 255
    edges = values.min() - step / 2 + step * np.arange(257)
    expected, _ = np.histogram(values.astype("float64"), edges)
    assert np.abs(np.cumsum(histogram["buckets"]) - np.cumsum(expected)).max() <= 0.05 * expected.max()


def test_what_does_not_count() -> None:
    tally = tallied(np.array([1.0, np.nan, np.inf, 5.0], "float32"), np.array([True, True, True, False]))
    assert (tally.pixels, tally.valid, tally.non_finite) == (4, 1, 2)
    assert tallied(np.zeros(3, "uint8"), np.zeros(3, bool)).histogram() is None
    assert tallied(np.array([np.finfo("float64").max, np.finfo("float64").min])).histogram() is None
    tiny = tallied(np.array([5e-324, 1e-300]))
    assert tiny.result().minimum == 5e-324
    assert math.isfinite(tiny.result().maximum or math.nan)
