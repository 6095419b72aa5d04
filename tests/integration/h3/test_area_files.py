"""Areas in files: read where rasters may be read from, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ports import Raised
from infrastructure.storage.download import DownloadLimits
from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
from services.h3 import area_file
from tests.file_server import FileServer, file_server
from tests.h3_support import Task, rings

SQUARE = json.dumps(rings((29.0, -2.0), (30.0, -2.0), (30.0, -1.0), (29.0, -1.0), (29.0, -2.0))).encode()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[HandlerStorage]:
    (tmp_path / "open").mkdir()
    spec = StorageSpec(
        source_roots=(str(tmp_path / "open"),), allowed_hosts=("localhost",), allow_private=True, min_free_mb=1
    )
    made = HandlerStorage(spec, limits=DownloadLimits(min_free_bytes=1, tries=1))
    yield made
    made.close()


def estimate(area: str, storage: HandlerStorage, tmp_path: Path) -> Task:
    return Task("h3_validate_area", {"area": area}, tmp_path / "work", services={"storage": storage})


def test_a_file_below_an_allowed_directory_is_read(storage: HandlerStorage, tmp_path: Path) -> None:
    path = tmp_path / "open" / "square.geojson"
    path.write_bytes(SQUARE)
    area = estimate(str(path), storage, tmp_path).result()["area"]
    assert (area["label"], area["source"]) == ("square", "file")


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/../../closed/square.geojson"])
def test_a_file_elsewhere_is_refused_whether_it_is_there_or_not(
    storage: HandlerStorage, tmp_path: Path, form: str
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "square.geojson").write_bytes(SQUARE)
    start = tmp_path / "open" / "x" if "{}/" in form else closed / "square.geojson"
    there = estimate(form.format(start), storage, tmp_path).refusal()
    (closed / "square.geojson").unlink()
    assert estimate(form.format(start), storage, tmp_path).refusal() == there
    code, message = there
    assert code == "SOURCE_NOT_ALLOWED"
    assert message.startswith("area: ")
    assert "SOURCE_ALLOWED_ROOTS" in message


def test_a_link_out_of_an_allowed_directory_is_refused(storage: HandlerStorage, tmp_path: Path) -> None:
    (tmp_path / "secret.geojson").write_bytes(SQUARE)
    (tmp_path / "open" / "link.geojson").symlink_to(tmp_path / "secret.geojson")
    assert estimate(str(tmp_path / "open" / "link.geojson"), storage, tmp_path).refusal()[0] == "SOURCE_NOT_ALLOWED"


def test_a_url_of_an_allowed_host_is_read_and_leaves_no_copy(
    server: FileServer, storage: HandlerStorage, tmp_path: Path
) -> None:
    task = estimate(server.serve("/areas/square.geojson", SQUARE), storage, tmp_path)
    area = task.result()["area"]
    assert (area["label"], area["source"]) == ("square", "URL")
    assert not list((tmp_path / "work").rglob("area/*"))


def test_a_url_of_another_host_is_not_called(server: FileServer, storage: HandlerStorage, tmp_path: Path) -> None:
    server.serve("/square.geojson", SQUARE)
    code, message = estimate(server.url("/square.geojson", "127.0.0.1"), storage, tmp_path).refusal()
    assert code == "SOURCE_NOT_ALLOWED"
    assert message.startswith("area: ")
    assert not server.asked


def test_a_url_that_answers_404_fails_for_good_and_503_for_now(
    server: FileServer, storage: HandlerStorage, tmp_path: Path
) -> None:
    absent = estimate(server.url("/none.geojson"), storage, tmp_path)
    assert "404" in absent.refusal()[1]
    busy = estimate(server.serve("/busy.geojson", SQUARE, status=503), storage, tmp_path).attempt()
    assert isinstance(busy, Raised)
    assert busy.error.retryable


def test_a_file_that_is_too_large_is_refused(
    server: FileServer, storage: HandlerStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(area_file, "MAX_BYTES", 20)
    path = tmp_path / "open" / "square.geojson"
    path.write_bytes(SQUARE)
    for address in (str(path), server.serve("/square.geojson", SQUARE)):
        code, message = estimate(address, storage, tmp_path).refusal()
        assert code == "AREA_TOO_LARGE"
        assert message.startswith("area: ")
