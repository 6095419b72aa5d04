"""Exports and pictures, read back with other tools."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h3
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from services.h3.exports import ids
from services.h3.memory_store import InMemoryGridStore
from services.h3.parameters import ExportFormat
from tests.h3_support import Task, boundary


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> InMemoryGridStore:
    store = InMemoryGridStore()
    parameters = {"area": "RWA", "target_resolutions": [5, 7], "picture": False, "grid_id": "rwanda"}
    Task("h3_bootstrap_complete", parameters, tmp_path_factory.mktemp("grid"), store).result()
    parameters = {"area": "FJI", "base_resolution": 4, "target_resolutions": [6], "picture": False, "grid_id": "fiji"}
    Task("h3_bootstrap_complete", parameters, tmp_path_factory.mktemp("grid"), store).result()
    return store


def exported(grids: InMemoryGridStore, tmp_path: Path, kind: str, grid: str = "rwanda", step: int = 7) -> Path:
    task = Task("h3_export", {"grid_id": grid, "formats": [kind], "resolutions": [step]}, tmp_path, grids)
    (facts,) = task.result()["files"].values()
    assert not list(Path(facts["path"]).parent.glob("*.part"))
    assert facts["bytes"] == Path(facts["path"]).stat().st_size
    return Path(facts["path"])


def cells_of(grids: InMemoryGridStore, grid: str, step: int) -> list[str]:
    known = grids.get(grid)
    assert known is not None
    return [h3.int_to_str(int(cell)) for chunk in grids.cells(known, step) for cell in chunk]


def test_ids_are_the_librarys_text() -> None:
    cells = [h3.latlng_to_cell(lat, lng, res) for lat, lng, res in ((0, 0, 0), (-2, 30, 7), (89, 179, 15))]
    assert ids(np.array([h3.str_to_int(cell) for cell in cells], dtype=np.int64)).astype(str).tolist() == cells


def test_parquet(grids: InMemoryGridStore, tmp_path: Path) -> None:
    table = pq.read_table(exported(grids, tmp_path, "parquet"))
    assert table.column_names == ["h3", "h3_int", "parent", "resolution"]
    wanted = cells_of(grids, "rwanda", 7)
    assert table["h3"].to_pylist() == wanted
    assert table["h3_int"].to_pylist() == [h3.str_to_int(cell) for cell in wanted]
    assert table["parent"].to_pylist() == [h3.cell_to_parent(cell, 6) for cell in wanted]
    assert set(table["resolution"].to_pylist()) == {7}


def test_csv(grids: InMemoryGridStore, tmp_path: Path) -> None:
    with exported(grids, tmp_path, "csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["h3"] for row in rows] == cells_of(grids, "rwanda", 7)
    assert rows[0]["parent"] == h3.cell_to_parent(rows[0]["h3"], 6)


@pytest.mark.parametrize(("grid", "step"), [("rwanda", 5), ("fiji", 6)])
def test_geojson_has_the_librarys_outlines(grids: InMemoryGridStore, tmp_path: Path, grid: str, step: int) -> None:
    document = json.loads(exported(grids, tmp_path, "geojson", grid, step).read_text())
    assert document["type"] == "FeatureCollection"
    assert [feature["id"] for feature in document["features"]] == cells_of(grids, grid, step)
    crossing = 0
    for feature in document["features"]:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        assert shape.bounds[2] - shape.bounds[0] < 1 or shape.geom_type == "MultiPolygon"
        crossing += shape.geom_type == "MultiPolygon"
        for part in shapely.get_parts(shape):
            assert part.exterior.is_ccw
        lat, lng = h3.cell_to_latlng(feature["id"])
        assert shapely.intersects_xy(shape, lng, lat)
        if shape.geom_type == "Polygon":
            outline = np.array([(x, y) for y, x in h3.cell_to_boundary(feature["id"])])
            assert shapely.Polygon(outline).symmetric_difference(shape).area < 1e-9
    assert (crossing > 0) == (grid == "fiji")


def test_geoparquet_covers_the_country(grids: InMemoryGridStore, tmp_path: Path) -> None:
    path = exported(grids, tmp_path, "geoparquet")
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    shapes = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    assert shapely.is_valid(shapes).all()
    overlap = shapely.union_all(shapes).intersection(boundary("rwanda")).area / boundary("rwanda").area
    assert overlap > 0.97


def test_exports_of_what_is_not_there_are_refused(grids: InMemoryGridStore, tmp_path: Path) -> None:
    assert Task("h3_export", {"grid_id": "nowhere"}, tmp_path, grids).refusal()[0] == "GRID_UNKNOWN"
    code, message = Task("h3_export", {"grid_id": "rwanda", "resolutions": [6]}, tmp_path, grids).refusal()
    assert code == "RESOLUTION_UNKNOWN"
    assert "it has 2, 5, 7" in message


def test_a_bootstrap_writes_what_was_asked_for(tmp_path: Path) -> None:
    parameters = {"area": "LSO", "target_resolutions": [4], "exports": [str(kind) for kind in ExportFormat]}
    result = Task("h3_bootstrap_complete", parameters, tmp_path).result()
    assert len(result["files"]) == 2 * len(ExportFormat)
    assert all(Path(facts["path"]).is_file() for facts in result["files"].values())
    assert set(json.loads(Path(result["stac"]).read_text())["assets"]) == {*result["files"], "overview"}


@pytest.mark.parametrize("area", ["LSO", "FJI", "ATA", [170, -20, -170, -10]])
def test_the_picture_shows_cells_within_the_outline(tmp_path: Path, area: object) -> None:
    parameters = {"area": area, "base_resolution": 1, "target_resolutions": [2, 4]}
    result = Task("h3_bootstrap_complete", parameters, tmp_path).result()
    with Image.open(result["picture"]) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 300
        assert max(image.size) <= 1600
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}
    assert colours[(96, 165, 220)] > 500, "cells"
    assert colours[(32, 32, 36)] > 100, "outline"
