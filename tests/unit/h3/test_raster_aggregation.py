"""Zonal statistics against a plain loop over pixels with the H3 library."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import h3.api.numpy_int as h3
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from core.ports import Returned
from core.stopping import StopToken
from services.h3.memory_store import InMemoryGridStore
from services.h3.ports import CellStatistics
from services.h3.raster_band import RasterBand, Window, apart, applied
from services.h3.zonal import ZonalStatistics
from tests.h3_support import StoppingStore, Task, concatenated

Facts = dict[int, dict[str, float]]


def raster(path: Path, values: np.ndarray, transform: Affine, crs: str = "EPSG:4326", **profile: Any) -> Path:
    height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        **profile,
    ) as dataset:
        dataset.write(values, 1)
    return path


def over_rwanda(path: Path, *, pixel: float = 0.01, seed: int = 1, dtype: str = "int16", **profile: Any) -> Path:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (round(2.2 / pixel), round(2.4 / pixel))).astype(dtype)
    return raster(path, values, Affine(pixel, 0, 28.6, 0, -pixel, -0.9), **profile)


@pytest.fixture(scope="module")
def rwanda(tmp_path_factory: pytest.TempPathFactory) -> InMemoryGridStore:
    store = InMemoryGridStore()
    for grid_id, more in (
        ("rwanda", {"area": "RWA", "target_resolutions": [5, 6, 7], "batch_cells": 1000}),
        ("seam", {"area": [179, -18, -179, -16], "base_resolution": 4, "target_resolutions": [5]}),
        ("pole", {"area": [-180, 80, 180, 90], "base_resolution": 2, "target_resolutions": [3]}),
    ):
        parameters = {"grid_id": grid_id, "picture": False, **more}
        Task("h3_bootstrap_complete", parameters, tmp_path_factory.mktemp("grid"), store).result()
    return store


def aggregation(store: InMemoryGridStore, path: Path, tmp_path: Path, resolution: int = 6, **more: Any) -> Task:
    parameters = {"grid_id": "rwanda", "source_url": str(path), "resolution": resolution, **more}
    return Task("h3_raster_aggregation", parameters, tmp_path, store)


def stored(store: InMemoryGridStore, name: str, grid_id: str = "rwanda") -> Facts:
    grid = store.get(grid_id)
    assert grid is not None
    found: Facts = {}
    for chunk in store.statistics(grid, name):
        assert (np.diff(chunk.cells) > 0).all()
        for at, cell in enumerate(chunk.cells.tolist()):
            assert cell not in found
            found[cell] = {
                key: float(getattr(chunk, key)[at]) for key in ("count", "weight", "sum", "mean", "min", "max", "mode")
            }
    return found


def by_hand(path: Path, cells: set[int], resolution: int, to_degrees: Any = None) -> dict[int, list[float]]:
    """The values of each cell's pixels, one by one."""
    found: dict[int, list[float]] = defaultdict(list)
    with rasterio.open(path) as dataset:
        values, mask = dataset.read(1), dataset.read_masks(1)
        for row in range(dataset.height):
            for column in range(dataset.width):
                x, y = applied(dataset.transform, column + 0.5, row + 0.5)
                lng, lat = to_degrees(x, y) if to_degrees else (x, y)
                if not mask[row, column] or not np.isfinite(values[row, column]) or not np.isfinite(lng):
                    continue
                cell = int(h3.latlng_to_cell(lat, lng, resolution))
                if cell in cells:
                    found[cell].append(float(values[row, column]))
    return found


def cells_of(store: InMemoryGridStore, resolution: int, grid_id: str = "rwanda") -> set[int]:
    grid = store.get(grid_id)
    assert grid is not None
    return set(concatenated(store.cells(grid, resolution)).tolist())


def check(found: Facts, wanted: dict[int, list[float]]) -> None:
    assert found.keys() == wanted.keys()
    for cell, values in wanted.items():
        facts = found[cell]
        assert facts["count"] == facts["weight"] == len(values)
        assert facts["sum"] == pytest.approx(sum(values))
        assert facts["mean"] == pytest.approx(np.mean(values))
        assert (facts["min"], facts["max"]) == (min(values), max(values))


@pytest.mark.parametrize("resolution", [5, 6, 7])
def test_every_pixel_counts_once_in_its_cell(rwanda: InMemoryGridStore, tmp_path: Path, resolution: int) -> None:
    path = over_rwanda(tmp_path / "a.tif", pixel=0.02, nodata=0)
    result = aggregation(rwanda, path, tmp_path, resolution, categorical=True, assignment="pixel_centers").result()
    found = stored(rwanda, result["name"])
    wanted = by_hand(path, cells_of(rwanda, resolution), resolution)
    check(found, wanted)
    for cell, values in wanted.items():
        most = max(Counter(values).values())
        assert found[cell]["mode"] == min(value for value, times in Counter(values).items() if times == most)
    assert result["cells"] == len(wanted)
    assert result["pixels"] == sum(map(len, wanted.values()))
    assert result["cells_without_data"] == len(cells_of(rwanda, resolution)) - len(wanted)
    every = [value for values in wanted.values() for value in values]
    assert result["mean"] == pytest.approx(np.mean(every))
    assert (result["min"], result["max"]) == (min(every), max(every))


def test_the_size_of_windows_changes_nothing(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    path = over_rwanda(tmp_path / "a.tif", pixel=0.004, dtype="float32")
    facts = [
        stored(rwanda, aggregation(rwanda, path, tmp_path, name=f"w{size}", window_pixels=size).result()["name"])
        for size in (65_536, 16_000_000)
    ]
    assert facts[0].keys() == facts[1].keys()
    for cell, one in facts[0].items():
        for key, value in one.items():
            assert value == pytest.approx(facts[1][cell][key], nan_ok=True)


def test_a_projected_raster_lands_where_it_is(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(1500, 300, (140, 150)).astype("float32")
    values[rng.random(values.shape) < 0.1] = np.nan
    path = raster(tmp_path / "utm.tif", values, Affine(1500, 0, 690_000, 0, -1500, 9_890_000), "EPSG:32735")
    to_degrees = Transformer.from_crs("EPSG:32735", "EPSG:4326", always_xy=True).transform
    result = aggregation(rwanda, path, tmp_path, 5).result()
    assert result["assignment"] == "pixel_centers"
    check(stored(rwanda, result["name"]), by_hand(path, cells_of(rwanda, 5), 5, to_degrees))


@pytest.mark.parametrize("west", [178.5, -181.5])
def test_across_the_antimeridian_pixels_count_once(rwanda: InMemoryGridStore, tmp_path: Path, west: float) -> None:
    values = np.arange(60 * 60, dtype="int32").reshape(60, 60)
    path = raster(tmp_path / "seam.tif", values, Affine(0.05, 0, west, 0, -0.05, -15.5))
    result = aggregation(rwanda, path, tmp_path, 5, grid_id="seam").result()
    wrap = lambda x, y: ((x + 180) % 360 - 180, y)  # noqa: E731
    check(stored(rwanda, result["name"], "seam"), by_hand(path, cells_of(rwanda, 5, "seam"), 5, wrap))


def test_a_raster_that_counts_longitudes_from_0_to_360(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    values = np.arange(180 * 720, dtype="int32").reshape(180, 720)
    path = raster(tmp_path / "globe.tif", values, Affine(0.5, 0, 0, 0, -0.5, 45))
    result = aggregation(rwanda, path, tmp_path, 5, grid_id="seam", assignment="pixel_centers").result()
    wrap = lambda x, y: ((x + 180) % 360 - 180, y)  # noqa: E731
    check(stored(rwanda, result["name"], "seam"), by_hand(path, cells_of(rwanda, 5, "seam"), 5, wrap))


def test_around_the_pole_on_a_polar_raster(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 99, (90, 90)).astype("int16")
    path = raster(tmp_path / "polar.tif", values, Affine(20_000, 0, -900_000, 0, -20_000, 900_000), "EPSG:3995")
    to_degrees = Transformer.from_crs("EPSG:3995", "EPSG:4326", always_xy=True).transform
    result = aggregation(rwanda, path, tmp_path, 3, grid_id="pole").result()
    check(stored(rwanda, result["name"], "pole"), by_hand(path, cells_of(rwanda, 3, "pole"), 3, to_degrees))


def test_cells_smaller_than_pixels_take_the_pixel_they_lie_in(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    path = over_rwanda(tmp_path / "coarse.tif", pixel=0.2, nodata=0)
    result = aggregation(rwanda, path, tmp_path, 7, categorical=True).result()
    assert result["assignment"] == "cell_centers"
    found = stored(rwanda, result["name"])
    with rasterio.open(path) as dataset:
        values = dataset.read(1)
        for cell in cells_of(rwanda, 7):
            lat, lng = h3.cell_to_latlng(cell)
            row, column = dataset.index(lng, lat)
            value = values[row, column]
            if value == 0:
                assert cell not in found
            else:
                assert found[cell] == {
                    "count": 1,
                    "weight": 1,
                    "sum": value,
                    "mean": value,
                    "min": value,
                    "max": value,
                    "mode": value,
                }


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(0.1, 0, 28.6, 0, -0.1, 61)),
        ("EPSG:32735", Affine(9000, 0, 600_000, 0, -9000, 6_800_000)),
        ("EPSG:3857", Affine(9000, 0, 3_180_000, 0, -9000, 8_600_000)),
    ],
)
def test_area_weights_are_the_pixels_areas(tmp_path: Path, crs: str, transform: Affine) -> None:
    path = raster(tmp_path / "a.tif", np.ones((20, 20), dtype="uint8"), transform, crs)
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    with rasterio.open(path) as dataset:
        band = RasterBand(dataset, 1)
        areas = band.areas(Window(0, 20, 0, 20)).reshape(20, 20)
        for row, column in ((0, 0), (7, 13), (19, 19)):
            steps = np.linspace(0, 1, 30)
            edge = [(column + s, row) for s in steps] + [(column + 1, row + s) for s in steps]
            edge += [(column + 1 - s, row + 1) for s in steps] + [(column, row + 1 - s) for s in steps]
            points = [to_degrees(*applied(dataset.transform, *point)) for point in edge]
            geodesic = abs(Geod(ellps="WGS84").polygon_area_perimeter(*zip(*points, strict=True))[0])
            assert areas[row, column] == pytest.approx(geodesic, rel=2e-3)


def test_area_weighting_weighs(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    path = over_rwanda(tmp_path / "a.tif", pixel=0.02)
    result = aggregation(rwanda, path, tmp_path, 5, weighting="area").result()
    with rasterio.open(path) as dataset:
        pixel = RasterBand(dataset, 1).pixel_area()
    for facts in stored(rwanda, result["name"]).values():
        assert facts["weight"] == pytest.approx(facts["count"] * pixel, rel=2e-3)
        assert facts["mean"] == pytest.approx(facts["sum"] / facts["weight"])


def test_an_aggregation_that_is_stopped_goes_on_and_is_the_same(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    path = over_rwanda(tmp_path / "a.tif", pixel=0.01)
    wanted = stored(rwanda, aggregation(rwanda, path, tmp_path / "whole", 7, name="whole").result()["name"])

    class Stopping(StoppingStore):
        def save_statistics(self, *args: Any) -> bool:
            self.save_batch = None  # type: ignore[assignment]
            made = self._inner.save_statistics(*args)
            self.saved.append(args[2])
            self._left -= 1
            if self._left == 0:
                from core.stopping import StopReason

                self._stop.request(StopReason.DRAIN)
            return made

    stop = StopToken()
    task = aggregation(rwanda, path, tmp_path / "stopped", 7, name="stopped")
    first = Stopping(rwanda, stop, 2)
    task.store = first  # type: ignore[assignment]
    execution = task.attempt(stop)
    assert isinstance(execution, Returned)
    assert execution.result["interrupted"]
    second = Stopping(rwanda, StopToken(), -1)
    task.store = second  # type: ignore[assignment]
    task.result()
    assert len(first.saved) == 2
    assert not set(first.saved) & set(second.saved)
    found = stored(rwanda, "stopped")
    assert found.keys() == wanted.keys()
    assert all(found[cell]["sum"] == facts["sum"] for cell, facts in wanted.items())


def test_the_same_again_is_not_computed_again_unless_it_replaces(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    path = over_rwanda(tmp_path / "a.tif", pixel=0.05, seed=5)
    first = aggregation(rwanda, path, tmp_path / "1", 5, name="mine").result()
    over_rwanda(path, pixel=0.05, seed=6)
    again = aggregation(rwanda, path, tmp_path / "2", 5, name="mine").result()
    assert again["mean"] == first["mean"]
    replaced = aggregation(rwanda, path, tmp_path / "3", 5, name="mine", replace=True).result()
    assert replaced["mean"] != first["mean"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"band": 2}, "BAND_UNKNOWN"),
        ({"grid_id": "nowhere"}, "GRID_UNKNOWN"),
        ({"resolution": 9}, "RESOLUTION_UNKNOWN"),
        ({"source_url": "/nowhere/none.tif"}, "FILE_NOT_FOUND"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(
    rwanda: InMemoryGridStore, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    task = aggregation(rwanda, over_rwanda(tmp_path / "a.tif", pixel=0.2), tmp_path, 5)
    task.parameters = {**task.parameters, **change}
    assert task.refusal()[0] == code


def test_rasters_without_a_place_or_an_order_are_refused(rwanda: InMemoryGridStore, tmp_path: Path) -> None:
    values = np.ones((10, 10), dtype="uint8")
    with rasterio.open(
        tmp_path / "n.tif",
        "w",
        driver="GTiff",
        height=10,
        width=10,
        count=1,
        dtype="uint8",
        transform=Affine(0.1, 0, 29, 0, -0.1, -1),
    ) as dataset:
        dataset.write(values, 1)
    assert aggregation(rwanda, tmp_path / "n.tif", tmp_path).refusal()[0] == "CRS_MISSING"
    complex_values = values.astype("complex64")
    path = raster(tmp_path / "c.tif", complex_values, Affine(0.1, 0, 29, 0, -0.1, -1))
    assert aggregation(rwanda, path, tmp_path).refusal()[0] == "UNSUPPORTED_DTYPE"
    floats = over_rwanda(tmp_path / "f.tif", pixel=0.2, dtype="float32")
    assert aggregation(rwanda, floats, tmp_path, categorical=True).refusal()[0] == "NOT_CATEGORICAL"


pixels = st.lists(st.tuples(st.integers(0, 9), st.integers(-3, 3), st.sampled_from([0.5, 1.0, 2.0])), max_size=60)


@settings(max_examples=100)
@given(pixels, st.lists(st.integers(0, 60), max_size=4))
def test_accumulators_do_not_care_how_pixels_are_cut(rows: list[tuple[int, int, float]], cuts: list[int]) -> None:
    cells = np.arange(100, 110, dtype=np.int64)
    statistics = ZonalStatistics(cells, categorical=True)
    edges = [0, *sorted(cuts), len(rows)]
    for start, end in pairwise(edges):
        part = rows[start:end] if start < end else []
        statistics.add(
            np.array([row[0] for row in part], dtype=np.intp),
            np.array([row[1] for row in part], dtype=np.float64),
            np.array([row[2] for row in part], dtype=np.float64),
        )
    result: CellStatistics = statistics.result()
    wanted: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for place, value, weight in rows:
        wanted[100 + place].append((value, weight))
    assert result.cells.tolist() == sorted(wanted)
    for at, cell in enumerate(result.cells.tolist()):
        values = wanted[cell]
        weights: Counter[int] = Counter()
        for value, weight in values:
            weights[value] += weight  # type: ignore[assignment]
        assert result.count[at] == len(values)
        assert result.weight[at] == sum(weight for _, weight in values)
        assert result.sum[at] == sum(value * weight for value, weight in values)
        assert result.min[at] == min(value for value, _ in values)
        assert result.max[at] == max(value for value, _ in values)
        assert result.mode[at] == min(value for value, weight in weights.items() if weight == max(weights.values()))


windows = st.builds(
    lambda row, column, height, width: Window(row, row + height, column, column + width),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 9),
    st.integers(1, 9),
)


@given(st.lists(windows, max_size=6))
def test_windows_are_joined_until_they_share_no_pixel(given_windows: list[Window]) -> None:
    found = apart(given_windows)
    covered = np.zeros((40, 40), dtype=int)
    for window in found:
        covered[window.row : window.row_end, window.column : window.column_end] += 1
    assert covered.max(initial=0) <= 1
    for window in given_windows:
        assert (covered[window.row : window.row_end, window.column : window.column_end] == 1).all()
