"""Validation of large remote rasters reads the pieces that it needs, and copies nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import PermanentError, TransientError
from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
from services.raster import acquire
from services.raster.parameters import ValidateRaster
from services.raster.steps import run_validation
from tests.file_server import FileServer, file_server
from tests.raster_support import context_in, write_raster

MIB = 1 << 20


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


@pytest.fixture
def storage() -> Iterator[HandlerStorage]:
    made = HandlerStorage(StorageSpec(allowed_hosts=("localhost",), allow_private=True, min_free_mb=1))
    yield made
    made.close()


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """72 MiB of noise, its blocks far apart."""
    pixels = np.random.default_rng(1).integers(1, 255, (1, 8704, 8704)).astype("uint8")
    path = tmp_path_factory.mktemp("raster") / "large.tif"
    return write_raster(path, pixels, tiled=True, blockxsize=256, blockysize=256, nodata=0).read_bytes()


def validated(url: str, storage: HandlerStorage, tmp_path: Path) -> dict[str, Any]:
    context, _ = context_in(tmp_path)
    context.services = {"storage": storage}
    try:
        return run_validation(ValidateRaster(source_url=url), context)
    finally:
        assert not (context.work_path / "source").exists()


def sent(server: FileServer) -> int:
    """Bytes that were asked for in ranges."""
    total = 0
    for asked in server.asked:
        assert asked.range is not None
        start, end = asked.range.removeprefix("bytes=").split("-")
        total += int(end) + 1 - int(start)
    return total


def test_the_same_is_found_as_in_a_copy_with_less_traffic(
    raster: bytes, server: FileServer, storage: HandlerStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.serve("/large.tif", raster)
    in_pieces = validated(url, storage, tmp_path / "a")
    assert sent(server) < len(raster) * 0.8
    server.asked.clear()
    monkeypatch.setattr(acquire, "COPIED_UP_TO", 1 << 40)
    copied = validated(url, storage, tmp_path / "b")
    assert in_pieces == copied


def test_a_small_file_is_copied_at_once(server: FileServer, storage: HandlerStorage, tmp_path: Path) -> None:
    pixels = np.ones((1, 64, 64), "uint8")
    url = server.serve("/small.tif", write_raster(tmp_path / "small.tif", pixels).read_bytes())
    validated(url, storage, tmp_path)
    assert [asked.range for asked in server.asked] == ["bytes=0-0", None]


def test_a_server_that_gives_no_ranges_is_copied_from(
    raster: bytes, server: FileServer, storage: HandlerStorage, tmp_path: Path
) -> None:
    url = server.serve("/large.tif", raster, ranges=False)
    assert validated(url, storage, tmp_path)["valid"] is True
    assert len(server.asked) == 2


def test_a_file_that_changes_meanwhile_is_a_passing_fault(
    raster: bytes, server: FileServer, storage: HandlerStorage, tmp_path: Path
) -> None:
    url = server.serve("/large.tif", raster)
    served = server.files["/large.tif"]

    def change() -> None:
        if len(server.asked) == 8:
            served.etag = '"other"'

    served.before = change
    with pytest.raises(TransientError, match="changed while it was read"):
        validated(url, storage, tmp_path)


def test_a_server_that_goes_away_is_a_passing_fault(
    raster: bytes, server: FileServer, storage: HandlerStorage, tmp_path: Path
) -> None:
    url = server.serve("/large.tif", raster)
    served = server.files["/large.tif"]

    def go() -> None:
        if len(server.asked) == 8:
            served.status = 503

    served.before = go
    with pytest.raises(TransientError, match="503"):
        validated(url, storage, tmp_path)


def test_a_file_that_was_cut_short_is_refused(
    raster: bytes, server: FileServer, storage: HandlerStorage, tmp_path: Path
) -> None:
    url = server.serve("/large.tif", raster[: 70 * MIB])
    with pytest.raises(PermanentError) as caught:
        validated(url, storage, tmp_path)
    assert caught.value.code == "TRUNCATED"
