"""The bootstrap handlers on a grid store in memory, run as the worker runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from pydantic import ValidationError

from core.handlers import HandlerRegistry
from core.jobs import JobRegistry, check_registries
from core.ports import Returned
from core.stopping import StopReason, StopToken
from services.h3 import bits
from services.h3.estimate import estimate_cells
from services.h3.grid import Containment, Method
from services.h3.memory_store import InMemoryGridStore
from services.h3.parameters import BootstrapGrid, FanOutGrid
from services.h3.plan import GridPlan
from services.h3.registry import HANDLERS, JOBS
from tests.h3_support import StoppingStore, Task, boundary, concatenated, counts, library_cells, rings

Parameters = dict[str, Any]


def bootstrap(tmp_path: Path, **parameters: Any) -> Task:
    return Task("h3_bootstrap_complete", {"area": "RWA", "picture": False, **parameters}, tmp_path)


def test_registering_loads_no_array_library() -> None:
    heavy = ("numpy", "shapely", "h3", "h3ronpy", "rasterio", "pyarrow")
    code = f"import sys, services.h3.registry; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_job_has_its_handlers() -> None:
    check_registries(JobRegistry(JOBS), HandlerRegistry(HANDLERS))


@pytest.mark.parametrize("containment", list(Containment))
def test_rwanda_has_the_librarys_counts_at_every_resolution(tmp_path: Path, containment: Containment) -> None:
    task = bootstrap(tmp_path, target_resolutions=[3, 4, 5, 6, 7, 8], containment=str(containment))
    result = task.result()
    wanted = {step: len(library_cells(boundary("rwanda"), step, containment)) for step in range(2, 9)}
    assert counts(result) == wanted
    assert result["cells"] == sum(wanted.values())
    grid = task.store.get(result["grid_id"])
    assert grid is not None
    assert grid.complete
    stored = concatenated(task.store.cells(grid, 8))
    assert np.array_equal(stored, library_cells(boundary("rwanda"), 8, containment))


def test_the_result_says_what_the_grid_is(tmp_path: Path) -> None:
    result = bootstrap(tmp_path, target_resolutions=[3, 4]).result()
    assert (result["method"], result["containment"]) == ("polyfill", "center")
    assert result["area"]["label"] == "RWA"
    assert result["area"]["km2"] == pytest.approx(25_302.7, abs=0.1)
    assert "Natural Earth" in result["area"]["source"]
    item = pystac.Item.from_dict(json.loads(Path(result["stac"]).read_text()))
    assert item.bbox == pytest.approx([28.856, -2.826, 30.887, -1.058], abs=1e-3)
    assert item.properties["h3:cells"] == {"2": 1, "3": 1, "4": 12}


def test_a_cascade_of_centres_misses_and_adds_percents_and_says_so(tmp_path: Path) -> None:
    result = bootstrap(
        tmp_path, method="cascade", containment="center", base_resolution=5, target_resolutions=[7]
    ).result()
    finest = result["resolutions"][-1]
    exact = library_cells(boundary("rwanda"), 7, Containment.CENTER)
    base = library_cells(boundary("rwanda"), 5, Containment.CENTER)
    cascade = bits.children(base, 7)
    assert finest["cells"] == len(cascade) == 88 * 49
    assert finest["centres_in_area"] == len(exact)
    assert finest["missing"] == len(np.setdiff1d(exact, cascade))
    assert finest["extra"] == len(np.setdiff1d(cascade, exact))
    assert finest["missing_percent"] == pytest.approx(6, abs=1.5)
    assert finest["extra_percent"] == pytest.approx(6, abs=1.5)
    assert "not the area" in result["definition"]


@pytest.mark.parametrize("containment", list(Containment))
def test_a_filtered_cascade_is_the_cascade_kept_by_containment(tmp_path: Path, containment: Containment) -> None:
    task = bootstrap(
        tmp_path, method="filtered_cascade", containment=str(containment), base_resolution=4, target_resolutions=[5, 7]
    )
    result = task.result()
    base = library_cells(boundary("rwanda"), 4, Containment.OVERLAP)
    grid = task.store.get(result["grid_id"])
    assert grid is not None
    for step in (4, 5, 7):
        exact = library_cells(boundary("rwanda"), step, containment)
        kept = np.intersect1d(exact, bits.children(base, step))
        assert np.array_equal(concatenated(task.store.cells(grid, step)), kept)
        entry = next(entry for entry in result["resolutions"] if entry["resolution"] == step)
        centres = library_cells(boundary("rwanda"), step, Containment.CENTER)
        assert entry["missing"] == len(np.setdiff1d(centres, kept))
        assert entry["extra"] == len(np.setdiff1d(kept, centres))


def test_every_parent_of_a_cascade_is_in_it(tmp_path: Path) -> None:
    task = bootstrap(tmp_path, method="cascade", base_resolution=3, target_resolutions=[4, 5, 6])
    grid = task.store.get(task.result()["grid_id"])
    assert grid is not None
    for step in (4, 5, 6):
        cells, above = (concatenated(task.store.cells(grid, at)) for at in (step, step - 1))
        assert set(bits.parents(cells, step - 1).tolist()) == set(above.tolist())


def test_the_estimate_comes_first_and_progress_counts_cells(tmp_path: Path) -> None:
    task = bootstrap(tmp_path, target_resolutions=[7])
    task.result()
    first = task.checkpoints.progress[0]
    assert first.message == "estimated cells: 4,320 (r2 1, r7 4,319)"
    assert (first.total, first.unit) == (4320, "cells")
    assert task.checkpoints.progress[-1].percent == 100
    percents = [progress.percent for progress in task.checkpoints.progress]
    assert percents == sorted(percents)


@pytest.mark.parametrize("code", ["RWA", "FJI", "RUS"])
@pytest.mark.parametrize("method", list(Method))
def test_estimates_bound_the_truth_and_are_close(code: str, method: Method) -> None:
    from services.h3.area import resolve_area
    from services.h3.bootstrap import specification

    params = BootstrapGrid(area=code, method=method, target_resolutions=(3, 4, 5, 6))
    plan = GridPlan(specification(params, resolve_area(code)))
    base = None if method is Method.POLYFILL else plan.base_cells
    containment = plan.spec.containment
    found = estimate_cells(plan.region, base, [*plan.spec.resolutions, 15], method=method, containment=containment)
    for estimate in found[:-1]:
        rows = (chunk for n in range(plan.batches(estimate.resolution)) for chunk in plan.rows(estimate.resolution, n))
        assert estimate.low <= sum(map(len, rows)) <= estimate.high
    finest = found[-1]
    assert finest.resolution == 15
    assert (finest.high - finest.low) / finest.cells < 0.3


def test_a_grid_that_is_too_large_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    task = bootstrap(tmp_path, target_resolutions=[9, 15])
    code, message = task.refusal()
    assert code == "TOO_MANY_CELLS"
    assert "24,949" in message
    assert "resolution 9 alone would fit" in message
    assert task.store.grids() == []


def test_a_place_without_any_cell_says_so(tmp_path: Path) -> None:
    code, message = bootstrap(tmp_path, area="SMR", target_resolutions=[3, 4]).refusal()
    assert code == "EMPTY_GRID"
    assert "containment overlap" in message
    result = bootstrap(tmp_path, area="SMR", target_resolutions=[3, 4], containment="overlap").result()
    assert min(counts(result).values()) >= 1


def test_a_resolution_without_cells_is_noted(tmp_path: Path) -> None:
    result = bootstrap(tmp_path, area="FJI", target_resolutions=[4]).result()
    assert result["notes"] == ["resolution 2: no cell belongs to the area by containment center; 8 overlap it"]


def test_a_cascade_of_nothing_is_refused(tmp_path: Path) -> None:
    code, message = bootstrap(tmp_path, area="SMR", method="cascade", containment="center").refusal()
    assert code == "EMPTY_GRID"
    assert "finer base_resolution" in message


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"area": "RWX"}, "did you mean RWA"),
        ({"area": [1, 2]}, "four numbers"),
        ({"target_resolutions": [1]}, "coarser than base_resolution 2"),
        ({"target_resolutions": [16]}, "less than or equal to 15"),
        ({"target_resolutions": []}, "at least 1"),
        ({"containment": "centre"}, "center"),
        ({"method": "fill"}, "polyfill"),
        ({"grid_id": "../x"}, "pattern"),
        ({"expected_country": "XYZ"}, "XYZ"),
        ({"resolution": 5}, "not permitted"),
        ({"exports": ["shapefile"]}, "geoparquet"),
    ],
)
def test_bad_parameters_are_refused_by_name(parameters: Parameters, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BootstrapGrid.model_validate({"area": "RWA", **parameters})


def test_geojson_in_place_is_bounded() -> None:
    ring = [[float(n % 90), n % 45] for n in range(30_000)]
    with pytest.raises(ValidationError, match="path or URL of a file"):
        BootstrapGrid.model_validate({"area": {"type": "Polygon", "coordinates": [ring]}})


def test_an_unusable_area_fails_for_good(tmp_path: Path) -> None:
    code, message = bootstrap(tmp_path, area=rings((0, 0), (1, 1), (1, 0), (0, 1))).refusal()
    assert code == "INVALID_GEOMETRY"
    assert "repair_geometry" in message
    repaired = bootstrap(
        tmp_path, area=rings((0, 0), (1, 1), (1, 0), (0, 1)), repair_geometry=True, target_resolutions=[5]
    ).result()
    assert repaired["notes"][0].startswith("invalid polygons")


def test_the_same_grid_again_is_found_complete(tmp_path: Path) -> None:
    first = bootstrap(tmp_path, target_resolutions=[5])
    result = first.result()
    again = bootstrap(tmp_path, target_resolutions=[5])
    again.store = first.store
    assert counts(again.result()) == counts(result)
    assert len(first.store.grids()) == 1


def test_another_grid_of_the_same_name_is_refused_or_replaces(tmp_path: Path) -> None:
    first = bootstrap(tmp_path, grid_id="mine", target_resolutions=[5])
    first.result()
    other = bootstrap(tmp_path, grid_id="mine", target_resolutions=[6])
    other.store = first.store
    code, message = other.refusal()
    assert code == "GRID_EXISTS"
    assert "resolutions" in message
    other.parameters = {**other.parameters, "replace": True}
    assert counts(other.result()) == {2: 1, 6: 622}


@pytest.mark.parametrize("after", [1, 2, 5, 9, 14])
def test_a_stop_between_batches_costs_nothing(tmp_path: Path, after: int) -> None:
    parameters = {"target_resolutions": [5, 6, 7], "batch_cells": 1000}
    whole = bootstrap(tmp_path / "whole", **parameters)
    wanted = whole.result()
    task = bootstrap(tmp_path / "stopped", **parameters)
    inner, stop = task.store, StopToken()
    first = StoppingStore(inner, stop, after)
    task.store = first  # type: ignore[assignment]
    execution = task.attempt(stop)
    assert isinstance(execution, Returned)
    assert execution.result["interrupted"] is True
    assert len(first.saved) == after
    second = StoppingStore(inner, StopToken(), -1)
    task.store = second  # type: ignore[assignment]
    result = task.result()
    assert len({*first.saved, *second.saved}) == len(first.saved) + len(second.saved), "no batch was saved twice"
    assert counts(result) == counts(wanted)
    one, other = whole.store.get(wanted["grid_id"]), inner.get(result["grid_id"])
    assert one is not None
    assert other is not None
    assert whole.store.checksum(one) == inner.checksum(other)


def test_a_stop_before_the_first_batch_stores_none(tmp_path: Path) -> None:
    task = bootstrap(tmp_path)
    stop = StopToken()
    stop.request(StopReason.CANCELLED)
    execution = task.attempt(stop)
    assert isinstance(execution, Returned)
    assert execution.result["interrupted"] is True
    assert counts(task.result())[7] == 4319


def test_fan_out_makes_the_same_grid_as_one_task(tmp_path: Path) -> None:
    parameters = {"area": "RWA", "target_resolutions": [5, 6, 7], "batch_cells": 1000, "picture": False}
    single = Task("h3_bootstrap_complete", {**parameters, "grid_id": "one"}, tmp_path)
    wanted = single.result()
    store = InMemoryGridStore()
    fan_out = {**parameters, "grid_id": "one"}
    begun = Task("h3_bootstrap_base", fan_out, tmp_path, store).result()
    job = next(job for job in JOBS if job.job_type == "bootstrap_h3_fanout")
    params = FanOutGrid.model_validate({**fan_out, "batches_per_task": 3})
    plans = [task.parameters for task in job.plan(job.stages[1], params, [_ended(begun)])]
    assert len(plans) > 5
    early = Task("h3_finalize", {"grid_id": "one", "picture": False}, tmp_path, store)
    assert early.refusal()[0] == "GRID_INCONSISTENT"
    for parameters_of_task in reversed(plans):
        Task("h3_cascade_batch", parameters_of_task, tmp_path, store).result()
    last = [task.parameters for task in job.plan(job.stages[2], params, [_ended({"grid_id": "one"})])]
    result = Task("h3_finalize", last[0], tmp_path, store).result()
    assert counts(result) == counts(wanted)
    one, other = single.store.get("one"), store.get("one")
    assert one is not None
    assert other is not None
    assert single.store.checksum(one) == store.checksum(other)


def _ended(result: Any) -> Any:
    from core.records import TaskResult
    from core.states import TaskStatus

    return TaskResult(task_id="t", task_index=0, status=TaskStatus.COMPLETED, result_data=result, error_details=None)


def test_validation_shows_the_estimate_and_stores_nothing(tmp_path: Path) -> None:
    task = Task("h3_validate_area", {"area": "RWA", "target_resolutions": [9]}, tmp_path)
    result = task.result()
    assert result["cells"] == 212_071
    assert [entry["exact"] for entry in result["estimates"]] == [True, True]
    assert task.store.grids() == []


def test_a_process_without_a_grid_store_says_so(tmp_path: Path) -> None:
    task = bootstrap(tmp_path)
    task.services = {"h3_grid_store": None}
    assert task.refusal()[0] == "NO_GRID_STORE"
