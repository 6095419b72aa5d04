"""What the raster tests share: a context in memory, and the path of the test rasters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from core.docker_context import ArtifactCheck, DockerTaskContext
from core.errors import PermanentError
from core.handlers import HandlerRegistry
from core.records import Progress
from core.stopping import StopReason, StopToken
from services.raster.parameters import ValidateRaster
from services.raster.registry import HANDLERS
from services.raster.steps import run_validation

RASTERS = Path(__file__).parent / "data" / "rasters"


class MemoryItems:
    """Finished items in memory."""

    def __init__(self) -> None:
        self.known: dict[str, Mapping[str, Any]] = {}
        self.marked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def __len__(self) -> int:
        return len(self.known)

    def get(self, key: str) -> Mapping[str, Any] | None:
        return self.known.get(key)

    def items(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        return list(self.known.items())

    def mark(self, key: str, data: Mapping[str, Any] | None = None) -> None:
        self.marked.append(key)
        self.known.setdefault(key, dict(data or {}))

    def flush(self) -> None:
        """Nothing is buffered."""


class MemoryCheckpoint:
    """A checkpoint in memory that outlives its context, as the stored one does."""

    def __init__(self) -> None:
        self.phase = 0
        self.data: dict[str, Any] = {}
        self.artifacts: dict[int, tuple[Path, ...]] = {}
        self.cursor: Mapping[str, Any] | None = None
        self.saved: list[int] = []
        self.item_logs: dict[int, MemoryItems] = {}

    def should_skip(self, phase: int) -> bool:
        return phase <= self.phase

    def save(
        self,
        phase: int,
        data: Mapping[str, Any] | None = None,
        validate_artifact: ArtifactCheck | None = None,
        *,
        artifacts: Iterable[Path] = (),
    ) -> None:
        assert validate_artifact is None or validate_artifact()
        paths = tuple(artifacts)
        assert all(path.is_file() for path in paths)
        self.phase = phase
        self.data |= data or {}
        self.artifacts[phase] = paths
        self.saved.append(phase)

    def get_data(self, key: str, default: Any = None) -> Any:
        return self.data.get(key, default)

    def save_cursor(self, cursor: Mapping[str, Any]) -> None:
        self.cursor = cursor

    def items(self, phase: int) -> MemoryItems:
        return self.item_logs.setdefault(phase, MemoryItems())

    def is_shutdown_requested(self) -> bool:
        return False

    def should_stop(self) -> bool:
        return False

    def save_and_stop_if_requested(self, phase: int, data: Mapping[str, Any] | None = None) -> bool:
        self.save(phase, data)
        return self.should_stop()

    def reset(self) -> None:
        self.phase, self.data, self.artifacts = 0, {}, {}


def context_in(
    directory: Path,
    *,
    checkpoint: MemoryCheckpoint | None = None,
    stop: StopToken | None = None,
    job_id: str = "a" * 64,
    stop_when: Any = None,
) -> tuple[DockerTaskContext, list[Progress]]:
    """A context that works in ``directory``, and the progress that it will report.

    ``stop_when(progress)`` says after which report the task is asked to stop.
    """
    reported: list[Progress] = []
    token = stop or StopToken()

    def sink(progress: Progress) -> None:
        reported.append(progress)
        if stop_when is not None and stop_when(progress):
            token.request(StopReason.DRAIN)

    context = DockerTaskContext(
        task_id="b" * 40,
        job_id=job_id,
        job_type="test",
        task_type="test",
        stage=1,
        attempt=1,
        worker_id="test",
        checkpoint=checkpoint or MemoryCheckpoint(),
        stop=token,
        progress_sink=sink,
        work_root=directory / "work",
    )
    return context, reported


def context_with(directory: Path, storage: Any = None) -> DockerTaskContext:
    """A context that works in ``directory`` and has ``storage``, or none of its own."""
    context, _ = context_in(directory)
    context.services = {} if storage is None else {"storage": storage}
    return context


def validated(source: object, directory: Path, storage: Any = None, **parameters: Any) -> dict[str, Any]:
    """What validation says of a raster."""
    return run_validation(ValidateRaster(source_url=str(source), **parameters), context_with(directory, storage))


def refusal(source: object, directory: Path, **parameters: Any) -> PermanentError:
    """Why validation refuses a raster."""
    with pytest.raises(PermanentError) as caught:
        validated(source, directory, **parameters)
    return caught.value


def made_of(source: Path, tmp_path: Path, **parameters: Any) -> Path:
    """The COG that ``process_raster_complete`` makes of a raster, or the mosaic where it makes tiles."""
    context, _ = context_in(tmp_path)
    made = HandlerRegistry(HANDLERS)["process_raster_complete"].call(
        {"source_url": str(source), "output_dir": str(tmp_path / "out"), **parameters}, context
    )
    return Path(made["mosaic"]["path"] if "mosaic" in made else made["cog"]["path"])


def write_raster(
    path: Path,
    pixels: Any,
    *,
    crs: Any = "EPSG:32633",
    transform: Affine | None = None,
    colorinterp: Any = None,
    tags: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """A GeoTIFF of ``pixels`` (band, row, column), pixels of 10 units from (500000, 5000000) unless said otherwise."""
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=str(pixels.dtype),
        crs=crs,
        transform=transform or Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0),
        **options,
    ) as written:
        if colorinterp is not None:
            written.colorinterp = colorinterp
        written.write(pixels)
        if tags:
            written.update_tags(**tags)
    return path


def textured(count: int, height: int, width: int, dtype: str, seed: int = 1) -> Any:
    """Pixels with structure and noise, away from the ends of ``dtype``."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.sin(rows / 37.0) + np.cos(columns / 23.0)
    layers = np.stack(
        [(waves + 0.2 * random.standard_normal(waves.shape) + 3 + band) * 18 + 10 for band in range(count)]
    )
    return layers.astype(dtype)
