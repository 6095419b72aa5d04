"""process_raster_complete: one result for the whole chain, and no finished phase is done twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rasterio
from PIL import Image

from core.docker_context import DockerTaskContext
from core.handlers import HandlerRegistry
from core.records import TaskResult
from core.states import TaskStatus
from services.raster import sample_raster
from services.raster.errors import RasterError
from services.raster.jobs import ProcessRasterV2
from services.raster.outputs import sha256_of
from services.raster.parameters import ProcessRaster
from services.raster.registry import HANDLERS
from tests.raster_support import MemoryCheckpoint, context_in, textured, write_raster

HANDLER = HandlerRegistry(HANDLERS)["process_raster_complete"]


def run(context: DockerTaskContext, tmp_path: Path, **parameters: Any) -> Any:
    given = {"source_url": str(sample_raster()), "output_dir": str(tmp_path / "out"), **parameters}
    return HANDLER.call(given, context)


def files(tmp_path: Path) -> set[str]:
    return {entry.name for entry in (tmp_path / "out" / ("a" * 16)).iterdir()}


def test_the_whole_chain(tmp_path: Path) -> None:
    checkpoint = MemoryCheckpoint()
    context, reported = context_in(tmp_path, checkpoint=checkpoint)
    result = run(context, tmp_path)
    json.dumps(result, allow_nan=False)
    assert set(result) == {"success", "validation", "cog", "stac", "thumbnail"}
    assert result["success"] is True
    assert result["validation"]["valid"] is True
    assert result["cog"]["validation"]["pixels_equal_source"] is True
    assert files(tmp_path) == {"RGB.byte.tif", "RGB.byte.json", "RGB.byte.png"}
    for part in ("cog", "stac", "thumbnail"):
        path = Path(result[part]["path"])
        assert (path.stat().st_size, sha256_of(path)) == (result[part]["size_bytes"], result[part]["sha256"])
    assert checkpoint.saved == [1, 2, 3]
    assert {path.name for phase in checkpoint.artifacts.values() for path in phase} == files(tmp_path)
    percents = [progress.percent for progress in reported]
    assert percents == sorted(percents)
    assert percents[-1] == 100


class Killed(BaseException):
    """Stands for the end of the process right after a phase was saved."""


class KilledAfter(MemoryCheckpoint):
    def __init__(self, phase: int) -> None:
        super().__init__()
        self.last = phase

    def save(self, phase: int, *arguments: Any, **named: Any) -> None:
        super().save(phase, *arguments, **named)
        if phase == self.last:
            self.last = 0
            raise Killed


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_a_killed_task_goes_on_after_its_last_finished_phase(phase: int, tmp_path: Path) -> None:
    checkpoint = KilledAfter(phase)
    context, _ = context_in(tmp_path, checkpoint=checkpoint)
    with pytest.raises(Killed):
        run(context, tmp_path)
    directory = tmp_path / "out" / ("a" * 16)
    before = {entry: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in directory.glob("*")}
    context, _ = context_in(tmp_path, checkpoint=checkpoint)
    result = run(context, tmp_path)
    assert checkpoint.saved == [1, 2, 3]
    assert {entry: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in before} == before
    reference, _ = context_in(tmp_path / "reference")
    undisturbed = run(reference, tmp_path / "reference")
    assert result["validation"] == undisturbed["validation"]
    with rasterio.open(result["cog"]["path"]) as one, rasterio.open(undisturbed["cog"]["path"]) as other:
        assert (one.read() == other.read()).all()


@pytest.mark.parametrize("message", ["validating", "encoding", "describing"])
def test_a_stop_interrupts_and_the_next_attempt_finishes(message: str, tmp_path: Path) -> None:
    checkpoint = MemoryCheckpoint()
    context, _ = context_in(tmp_path, checkpoint=checkpoint, stop_when=lambda progress: progress.message == message)
    result = run(context, tmp_path)
    if message != "describing":
        assert result["interrupted"] is True
        assert result["success"] is True
        left = {entry.name for entry in (tmp_path / "out").rglob("*") if entry.is_file()}
        assert left <= {"RGB.byte.tif"}
    context, _ = context_in(tmp_path, checkpoint=checkpoint)
    assert run(context, tmp_path)["success"] is True
    assert checkpoint.saved == [1, 2, 3]
    assert files(tmp_path) == {"RGB.byte.tif", "RGB.byte.json", "RGB.byte.png"}


def test_a_warp_can_be_stopped_in_the_middle(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "large.tif", textured(3, 3500, 3500, "uint8"))
    context, reported = context_in(tmp_path, stop_when=lambda progress: progress.message == "warping and encoding")
    result = run(context, tmp_path, source_url=str(source), target_crs="EPSG:4326")
    assert result["interrupted"] is True
    assert reported[-1].message == "warping and encoding"
    assert files(tmp_path) == set()


def test_a_reprojected_raster_has_a_picture_of_how_it_was(tmp_path: Path) -> None:
    context, _ = context_in(tmp_path)
    result = run(context, tmp_path, target_crs="EPSG:4326")
    assert files(tmp_path) == {"RGB.byte.tif", "RGB.byte.json", "RGB.byte.png", "RGB.byte.before.png"}
    with Image.open(result["before"]["path"]) as picture:
        assert (picture.width, picture.height) == (result["before"]["width"], result["before"]["height"])
    assert result["before"]["crs"] == "EPSG:32618"


def test_a_refusal_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", textured(1, 9, 9, "uint8"), crs=None)
    context, _ = context_in(tmp_path)
    with pytest.raises(RasterError) as caught:
        run(context, tmp_path, source_url=str(source))
    assert caught.value.code == "CRS_MISSING"
    assert not (tmp_path / "out").exists()


def test_without_an_output_directory_the_workers_is_used(tmp_path: Path) -> None:
    context, _ = context_in(tmp_path)
    context.services = {"output_dir": str(tmp_path / "configured")}
    result = HANDLER.call({"source_url": str(sample_raster())}, context)
    assert Path(result["cog"]["path"]).parent.parent == tmp_path / "configured"
    context, _ = context_in(tmp_path)
    result = HANDLER.call({"source_url": str(sample_raster())}, context)
    assert Path(result["cog"]["path"]).is_relative_to(context.work_dir)


def test_the_three_stages_make_the_same_as_the_one_task(tmp_path: Path) -> None:
    job, handlers = ProcessRasterV2(), HandlerRegistry(HANDLERS)
    given = ProcessRaster(source_url=str(sample_raster()), output_dir=str(tmp_path / "staged"))
    previous: list[TaskResult] = []
    for stage in job.stages:
        [plan] = job.plan(stage, given, previous)
        context, _ = context_in(tmp_path)
        data = json.loads(json.dumps(dict(handlers[stage.task_type].call(plan.parameters, context))))
        result = TaskResult(
            task_id="t", task_index=0, status=TaskStatus.COMPLETED, result_data=data, error_details=None
        )
        previous = [result]
    final = job.finalize(given, previous)
    context, _ = context_in(tmp_path)
    whole = run(context, tmp_path)
    for name in ("cog", "stac", "thumbnail"):
        assert Path(final[name]["path"]).is_file()
    assert final["thumbnail"]["sha256"] == whole["thumbnail"]["sha256"]
    assert final["stac"]["bbox"] == whole["stac"]["bbox"]
