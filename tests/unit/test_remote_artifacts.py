"""Which files of a result are a job's artifacts, where they lie elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.artifacts import RemoteArtifact, artifacts_of
from core.storage import LocalFiles
from testing.mock_state_manager import MockStateManager

JOB = "a" * 64
HERE = f"https://account.blob.core.windows.net/gold/out/{JOB[:16]}"


def artifacts(tmp_path: Path, result: dict[str, Any]) -> dict[str, Any]:
    store = MockStateManager()
    store.create_test_job(JOB, "demo")
    store.create_test_task("t", JOB, "work")
    claim = store.claim_task("t", worker_id="w", lease=store.hint_interval)
    store.complete_task(claim, {"success": True, **result})  # type: ignore[arg-type]
    return dict(artifacts_of(store, JOB, tmp_path, LocalFiles()))


def test_files_in_the_jobs_own_directory_are(tmp_path: Path) -> None:
    found = artifacts(
        tmp_path, {"cog": {"path": f"{HERE}/a%20b.tif", "size_bytes": 7}, "picture": f"{HERE}/tiles/map.png"}
    )
    assert set(found) == {"a b.tif", "map.png"}
    cog = found["a b.tif"]
    assert isinstance(cog, RemoteArtifact)
    assert (cog.size, cog.media_type) == (7, "image/tiff; application=geotiff; profile=cloud-optimized")
    assert found["map.png"].size is None


@pytest.mark.parametrize(
    "address",
    [
        "https://account.blob.core.windows.net/bronze/in/scene.tif",
        f"https://account.blob.core.windows.net/gold/out/{'b' * 16}/a.tif",
        f"https://account.blob.core.windows.net/gold/out/{JOB[:16]}",
        f"https://account.blob.core.windows.net/gold/out/{JOB[:16]}/../{'b' * 16}/a.tif",
        f"https://account.blob.core.windows.net/gold/a.tif?{JOB[:16]}/x",
        f"{HERE}/..",
    ],
)
def test_sources_and_outputs_of_other_jobs_are_not(tmp_path: Path, address: str) -> None:
    assert artifacts(tmp_path, {"cog": {"path": address}}) == {}
