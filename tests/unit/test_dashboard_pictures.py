"""Galleries: what a result shows, from its artifacts and its STAC item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.artifacts import LocalArtifact
from app.dashboard.pictures import charts, gallery
from app.dashboard.worldmap import footprint_map, world_svg

ITEM = {
    "type": "Feature",
    "id": "scene",
    "geometry": {"type": "Polygon", "coordinates": [[[30, 1], [31, 1], [31, 2], [30, 2], [30, 1]]]},
    "properties": {"datetime": "2026-01-31T12:00:00Z"},
    "assets": {
        "data": {
            "bands": [
                {
                    "name": "red",
                    "statistics": {"mean": 3.5},
                    "raster:histogram": {"count": 4, "min": 0, "max": 8, "buckets": [0, 10, 5, 0]},
                },
                {"name": "mask"},
            ]
        }
    },
}


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, LocalArtifact]:
    (tmp_path / "a b.json").write_text(json.dumps(ITEM))
    for name in ("a b.png", "a b.before.png", "map.png", "a b.tif"):
        (tmp_path / name).write_bytes(b"x" * 10)
    return {path.name: LocalArtifact(path.name, str(path), path) for path in sorted(tmp_path.iterdir())}


def test_a_reprojected_raster_shows_before_and_after_and_where_it_lies(artifacts: dict[str, LocalArtifact]) -> None:
    result = {
        "stac": {"path": "/elsewhere/a b.json"},
        "thumbnail": {"path": "/elsewhere/a b.png"},
        "before": {"path": "/elsewhere/a b.before.png"},
    }
    shown = gallery("job", result, artifacts)
    assert shown.before is not None
    assert shown.after is not None
    assert (shown.before.address, shown.after.address) == (
        "/api/jobs/job/artifacts/a%20b.before.png",
        "/api/jobs/job/artifacts/a%20b.png",
    )
    assert [picture.title for picture in shown.pictures] == ["map.png"]
    assert shown.item == ITEM
    assert shown.place is not None
    assert shown.place.path.startswith("M30 -1L31 -1")
    assert shown.place.ring == (30.5, -1.5)
    assert [(chart.name, chart.bins, chart.low, chart.high, chart.facts) for chart in shown.charts] == [
        ("red", 4, 0, 8, {"mean": 3.5})
    ]
    assert shown.charts[0].path == "M0 60V60h1V0h1V30h1V60h1V60Z"
    assert len(shown.files) == len(artifacts)


def test_a_result_without_pictures_shows_none(artifacts: dict[str, LocalArtifact]) -> None:
    assert gallery("job", {"greeted": 3}, {}).empty
    assert gallery("job", {"stac": {"path": "/nowhere.json"}, "thumbnail": 7}, {}).empty
    plain = gallery("job", {"thumbnail": {"path": "/x/a b.png"}}, artifacts)
    assert (plain.before, plain.pictures[0].title) == (None, "Thumbnail")
    broken = artifacts["a b.json"].path
    broken.write_text("{")
    assert gallery("job", {"stac": str(broken)}, artifacts).item is None


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[1, 2], [1, 2]]]},
        {"type": "MultiPolygon", "coordinates": []},
    ],
)
def test_what_has_no_area_has_no_map(geometry: dict[str, Any]) -> None:
    assert footprint_map(geometry) is None


def test_a_footprint_across_the_antimeridian_is_drawn_in_both_parts() -> None:
    parts = [[[[179, -17], [180, -17], [180, -16], [179, -17]]], [[[-180, -17], [-179, -17], [-180, -16], [-180, -17]]]]
    drawn = footprint_map({"type": "MultiPolygon", "coordinates": parts})
    assert drawn is not None
    assert drawn.path.count("M") == 2
    assert drawn.ring is None


def test_the_world_is_small_and_whole() -> None:
    svg = world_svg()
    assert 20_000 < len(svg) < 60_000
    assert svg.count(b"M") > 150
    assert charts(None) == []
