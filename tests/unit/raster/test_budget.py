"""What follows from a memory budget, and the grid of tiles that it gives."""

from __future__ import annotations

import pytest

from app.raster_limits import raster_limits
from app.settings import Settings
from services.raster.budget import Budget
from services.raster.gdal import MIB
from services.raster.tile_grid import TileGrid, level_blocks, overview_levels, tail_levels, tile_levels


@pytest.mark.parametrize("memory", [128 * MIB, 512 * MIB, 1024 * MIB, 2048 * MIB, 8192 * MIB])
@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("pixel_bytes", [1, 3, 24, 200])
def test_lanes_and_tiles_stay_within_the_budget(memory: int, cores: int, pixel_bytes: int) -> None:
    budget = Budget(memory, cores)
    side = budget.tile_side(pixel_bytes, 512)
    assert 1 <= budget.lanes <= cores
    assert 1024 <= side <= 4096
    taken = budget.cache + 4.5 * budget.lanes * side * side * pixel_bytes
    assert taken <= max(budget.working, budget.cache + 4.5 * budget.lanes * 1024 * 1024 * pixel_bytes)
    assert budget.tile_side(pixel_bytes, 512, part=True) <= 2048


def test_the_default_budget_is_a_quarter_and_at_most_two_gib() -> None:
    told = raster_limits(Settings.from_env({}))
    assert 0 < told["memory_budget_bytes"] <= 2048 * MIB
    assert told["raster_tiling_threshold_mb"] == 2048
    assert raster_limits(Settings.from_env({"RASTER_MEMORY_MB": "300"}))["memory_budget_bytes"] == 300 * MIB
    shared = raster_limits(Settings.from_env({"WORKER_CONCURRENCY": "4"}))["memory_budget_bytes"]
    assert shared == told["memory_budget_bytes"] // 4


@pytest.mark.parametrize(
    ("width", "height", "side"), [(1, 1, 512), (512, 512, 512), (1300, 700, 512), (5000, 9000, 2048)]
)
def test_tiles_cover_the_raster_once(width: int, height: int, side: int) -> None:
    grid = TileGrid(width, height, side)
    boxes = [grid.box(place) for place in grid]
    assert len(boxes) == len(grid) == len({(box.top, box.left) for box in boxes})
    assert sum(box.width * box.height for box in boxes) == width * height


def test_no_image_above_512_pixels_has_blocks_as_wide_as_itself() -> None:
    assert level_blocks(1024, 2048, 3, 512) == [512, 256, 512]
    assert level_blocks(512, 512, 1, 512) == [512]
    assert level_blocks(1024, 3, 1, 1024) == [512]
    assert level_blocks(128, 600, 1, 128) == [64]


def test_levels() -> None:
    assert [overview_levels(size, 2, 512) for size in (1, 512, 513, 1024, 1025, 28000)] == [0, 0, 1, 1, 2, 6]
    assert [overview_levels(width, 5000, 512) for width in (1, 2, 700)] == [0, 4, 4]
    assert [tile_levels(side, 512) for side in (512, 1024, 1536, 4096)] == [0, 1, 0, 3]
    assert [tail_levels(side, 512) for side in (512, 1536, 4096, 8192)] == [3, 3, 4, 5]
