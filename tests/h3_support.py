"""What the H3 tests share: running a handler as the worker does, boundaries, and the H3 library's own answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import h3.api.numpy_int as h3
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from core.handlers import HandlerRegistry
from core.ports import Execution, Raised, Returned
from core.records import Checkpoint, Claim, Progress, RunsOn, TaskRecord
from core.states import TaskStatus
from core.stopping import StopReason, StopToken
from infrastructure.inline_executor import HandlerParts, run_claimed
from services.h3.bits import Cells
from services.h3.grid import Containment
from services.h3.memory_store import InMemoryGridStore
from services.h3.ports import STORE, GridStore
from services.h3.registry import HANDLERS

BOUNDARIES = Path(__file__).parent / "data" / "boundaries"


def boundary(name: str) -> BaseGeometry:
    """The polygons of a boundary file."""
    document = json.loads((BOUNDARIES / f"{name}.geojson").read_text())
    return shapely.from_geojson(json.dumps(document["features"][0]["geometry"]))


def library_cells(geometry: BaseGeometry, resolution: int, mode: Containment) -> Cells:
    """The H3 library's answer, part by part."""
    parts = [
        h3.h3shape_to_cells_experimental(h3.geo_to_h3shape(shapely.geometry.mapping(part)), resolution, str(mode))
        for part in shapely.get_parts(geometry)
    ]
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *parts])).astype(np.int64)


class MemoryCheckpoints:
    """The CheckpointStore port for one task, kept over its attempts."""

    def __init__(self) -> None:
        self.checkpoint = Checkpoint()
        self.kept: dict[int, dict[str, Mapping[str, Any]]] = {}
        self.progress: list[Progress] = []

    def load_checkpoint(self, claim: Claim) -> Checkpoint:
        return self.checkpoint

    def save_checkpoint(self, claim: Claim, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def load_items(self, claim: Claim, phase: int) -> Mapping[str, Mapping[str, Any]]:
        return dict(self.kept.get(phase, {}))

    def save_items(self, claim: Claim, phase: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        self.kept.setdefault(phase, {}).update(items)

    def clear_checkpoint(self, claim: Claim) -> None:
        self.checkpoint, self.kept = Checkpoint(), {}

    def save_progress(self, claim: Claim, progress: Progress) -> None:
        self.progress.append(progress)


@dataclass
class Task:
    """One task, run attempt by attempt as the worker runs it."""

    task_type: str
    parameters: Mapping[str, Any]
    work_root: Path
    store: GridStore = field(default_factory=InMemoryGridStore)
    services: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    attempts: int = 0

    def attempt(self, stop: StopToken | None = None) -> Execution:
        """Run the handler once."""
        self.attempts += 1
        task = TaskRecord(
            task_id="h3task",
            job_id="h3job",
            job_type="test",
            task_type=self.task_type,
            stage=1,
            task_index=0,
            runs_on=RunsOn.DOCKER,
            status=TaskStatus.PROCESSING,
            parameters=json.loads(json.dumps(self.parameters)),
            attempt=self.attempts,
        )
        parts = HandlerParts(
            handlers=HandlerRegistry(HANDLERS),
            checkpoints=self.checkpoints,
            work_root=self.work_root,
            services={"output_dir": self.work_root / "outputs", STORE: self.store, **self.services},
        )
        claim = Claim(task=task, attempt=self.attempts, worker_id="test", lease=timedelta(minutes=1))
        return run_claimed(claim, parts, stop or StopToken())

    def result(self) -> Mapping[str, Any]:
        """The result of an attempt that must succeed."""
        execution = self.attempt()
        assert isinstance(execution, Returned), execution
        return execution.result

    def refusal(self) -> tuple[str | None, str]:
        """Code and message of an attempt that must fail for good."""
        execution = self.attempt()
        assert isinstance(execution, Raised), execution
        assert not execution.error.retryable
        assert execution.error.traceback is None, "a user's mistake is no bug"
        return execution.error.code, execution.error.message


class StoppingStore:
    """A store that asks the task to stop after a number of saved batches, and counts what it was asked to do."""

    def __init__(self, inner: GridStore, stop: StopToken, after: int) -> None:
        self._inner, self._stop, self._left = inner, stop, after
        self.saved: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def save_batch(self, grid: Any, batch: Any, rows: Any) -> Any:
        tally = self._inner.save_batch(grid, batch, rows)
        self.saved.append(batch)
        self._left -= 1
        if self._left == 0:
            self._stop.request(StopReason.DRAIN)
        return tally


def concatenated(chunks: Iterable[Cells]) -> Cells:
    """All chunks as one array."""
    return np.concatenate([np.empty(0, dtype=np.int64), *chunks])


def counts(result: Mapping[str, Any]) -> dict[int, int]:
    """Cells by resolution out of a result."""
    return {entry["resolution"]: entry["cells"] for entry in result["resolutions"]}


def rings(*points: Sequence[float]) -> dict[str, Any]:
    """A GeoJSON polygon of one ring, closed here."""
    return {"type": "Polygon", "coordinates": [[*map(list, points), list(points[0])]]}
