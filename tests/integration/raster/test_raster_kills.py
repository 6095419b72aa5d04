"""SIGKILL along the way: the pixels are those of an undisturbed run, and next to no work is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.raster_support import textured, write_raster

ROOT = Path(__file__).parents[3]
LANES = min(8, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Run:
    """What an attempt did: tiles that it began, CPU seconds, and whether it was killed."""

    tiles: int
    cpu: float
    killed: bool


def attempt(directory: Path, parameters: dict[str, Any], kill_after: int | None) -> Run:
    """Run until the end, or until so many tiles were begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.raster.kill_child", str(directory), json.dumps(parameters)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    begun = 0
    with process.stdout:
        for _ in process.stdout:
            begun += 1
            if kill_after is not None and begun >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (0 if kill_after is None or begun < kill_after else -signal.SIGKILL)
    return Run(begun, usage.ru_utime + usage.ru_stime, process.returncode != 0)


def pixels(directory: Path) -> Any:
    result = json.loads((directory / "result.json").read_text())
    path = result["mosaic"]["path"] if "mosaic" in result else result["cog"]["path"]
    with rasterio.open(path) as raster:
        return raster.read()


def killed_along_the_way(tmp_path: Path, source: Path, kills: int, parameters: dict[str, Any]) -> None:
    def given(directory: Path) -> dict[str, Any]:
        return {"source_url": str(source), "output_dir": str(directory / "out"), **parameters}

    calm = attempt(tmp_path / "calm", given(tmp_path / "calm"), None)
    disturbed = tmp_path / "disturbed"
    step = max(LANES + 1, calm.tiles // (kills + 1) + LANES)
    attempts = [attempt(disturbed, given(disturbed), step) for _ in range(kills)]
    attempts.append(attempt(disturbed, given(disturbed), None))
    assert sum(one.killed for one in attempts) >= kills - 1
    begun = sum(one.tiles for one in attempts)
    assert begun <= calm.tiles + LANES * sum(one.killed for one in attempts)
    assert begun <= 1.2 * calm.tiles + LANES
    np.testing.assert_array_equal(pixels(disturbed), pixels(tmp_path / "calm"))


MODES = {"tiles": {"tiling_threshold_mb": 0, "tile_size": 512}, "one cog": {"largest_tile": 512}}


@pytest.mark.parametrize("mode", MODES)
def test_killed_three_times(mode: str, tmp_path: Path) -> None:
    source = write_raster(tmp_path / "scene.tif", textured(1, 3000, 3000, "int16"))
    killed_along_the_way(tmp_path, source, 3, {"blocksize": 256, **MODES[mode]})


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", MODES)
def test_killed_ten_times(mode: str, tmp_path: Path) -> None:
    source = write_raster(tmp_path / "scene.tif", textured(3, 7000, 7000, "uint8"))
    killed_along_the_way(tmp_path, source, 10, {"blocksize": 256, **MODES[mode]})
