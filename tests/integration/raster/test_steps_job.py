"""``process_raster_v2``: the chain as three tasks, each with what the job was given that concerns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import InvalidInput
from services.raster import sample_raster
from testing import run_job


def process(tmp_path: Path, **parameters: Any) -> Any:
    given = {"source_url": str(sample_raster()), "output_dir": str(tmp_path / "out"), **parameters}
    run = run_job("process_raster_v2", given, work_root=tmp_path / "work")
    assert run.succeeded, run.job.error_details
    return run.result


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_outputs_have_the_name_that_was_given(tmp_path: Path) -> None:
    result = process(tmp_path, output_name="scene-7")
    assert files(tmp_path) == {"scene-7.tif", "scene-7.json", "scene-7.png"}
    assert Path(result["cog"]["path"]).name == "scene-7.tif"
    assert "before" not in result


def test_a_reprojected_raster_has_a_picture_of_how_it_was(tmp_path: Path) -> None:
    result = process(tmp_path, target_crs="EPSG:4326")
    assert files(tmp_path) == {"RGB.byte.tif", "RGB.byte.json", "RGB.byte.png", "RGB.byte.before.png"}
    assert result["before"]["crs"] == "EPSG:32618"
    with Image.open(result["before"]["path"]) as before, Image.open(result["thumbnail"]["path"]) as after:
        assert before.size == (result["before"]["width"], result["before"]["height"])
        assert before.tobytes() != after.tobytes()


@pytest.mark.parametrize("name", ["tile_size", "tiling_threshold_mb"])
def test_tiles_are_not_for_this_job_and_asking_for_them_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        process(tmp_path, **{name: 1024})
