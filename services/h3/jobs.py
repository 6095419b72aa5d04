"""The H3 jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from core.jobs import JobDefinition, Stage
from core.records import RunsOn, TaskPlan, TaskResult
from services.h3.parameters import AggregateRaster, BootstrapGrid, ExportGrid, FanOutGrid


class BootstrapGridJob(JobDefinition[BootstrapGrid]):
    """One long task on the Docker worker."""

    job_type = "bootstrap_h3_docker"
    description = "Makes the H3 grid of an area at several resolutions: one checkpointed task on the Docker worker."
    parameters = BootstrapGrid
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="bootstrap", task_type="h3_bootstrap_complete"),)

    def plan(self, stage: Stage, parameters: BootstrapGrid, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """One task with the job's parameters."""
        return [TaskPlan(parameters=parameters.model_dump(mode="json"))]

    def finalize(self, parameters: BootstrapGrid, results: Sequence[TaskResult]) -> Mapping[str, Any]:
        """The result of the last task."""
        return dict(results[-1].result_data or {}) if results else {}


class BootstrapGridTriggeredJob(BootstrapGridJob):
    """The function checks and estimates; the Docker worker makes the grid."""

    job_type = "bootstrap_h3_triggered"
    description = "Checks the area and shows the estimate on a function, then makes its H3 grid on the Docker worker."
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="validate", task_type="h3_validate_area", runs_on=RunsOn.FUNCTIONS),
        Stage(number=2, name="bootstrap", task_type="h3_bootstrap_complete"),
    )


class BootstrapGridFanOutJob(JobDefinition[FanOutGrid]):
    """Many workers fill one grid."""

    job_type = "bootstrap_h3_fanout"
    description = "Makes the H3 grid of an area with many workers: base cells, then batches as tasks, then the summary."
    parameters = FanOutGrid
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="base cells", task_type="h3_bootstrap_base"),
        Stage(number=2, name="cascade", task_type="h3_cascade_batch"),
        Stage(number=3, name="finalize", task_type="h3_finalize"),
    )

    def plan(self, stage: Stage, parameters: FanOutGrid, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """One task, then one a run of batches, then one. Each stage carries the grid's id on from the one before."""
        match stage.number:
            case 1:
                return [TaskPlan(parameters=parameters.model_dump(mode="json"))]
            case 2:
                return list(_runs(previous[0].result_data or {}, parameters.batches_per_task))
            case _:
                grid_id = (previous[0].result_data or {})["grid_id"]
                outputs = parameters.model_dump(mode="json", include={"exports", "picture"})
                return [TaskPlan(parameters={"grid_id": grid_id, **outputs})]

    def finalize(self, parameters: FanOutGrid, results: Sequence[TaskResult]) -> Mapping[str, Any]:
        """The result of the last task."""
        return dict(results[-1].result_data or {}) if results else {}


def _runs(begun: Mapping[str, Any], size: int) -> Iterable[TaskPlan]:
    for resolution, batches in begun["batches"]:
        for first in range(0, batches, size):
            yield TaskPlan(
                parameters={
                    "grid_id": begun["grid_id"],
                    "resolution": resolution,
                    "first": first,
                    "batches": min(size, batches - first),
                }
            )


class ExportGridJob(JobDefinition[ExportGrid]):
    """One task that writes files."""

    job_type = "export_h3_docker"
    description = "Writes a complete H3 grid to Parquet, GeoParquet, CSV or GeoJSON files."
    parameters = ExportGrid
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="export", task_type="h3_export"),)

    def plan(self, stage: Stage, parameters: ExportGrid, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """One task with the job's parameters."""
        return [TaskPlan(parameters=parameters.model_dump(mode="json"))]

    def finalize(self, parameters: ExportGrid, results: Sequence[TaskResult]) -> Mapping[str, Any]:
        """The result of the task."""
        return dict(results[-1].result_data or {}) if results else {}


class RasterAggregationJob(JobDefinition[AggregateRaster]):
    """One long task on the Docker worker."""

    job_type = "h3_raster_aggregation_docker"
    description = "Zonal statistics of a raster band for every cell of an H3 grid, windowed and checkpointed."
    parameters = AggregateRaster
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="aggregate", task_type="h3_raster_aggregation"),)

    def plan(self, stage: Stage, parameters: AggregateRaster, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """One task with the job's parameters."""
        return [TaskPlan(parameters=parameters.model_dump(mode="json"))]

    def finalize(self, parameters: AggregateRaster, results: Sequence[TaskResult]) -> Mapping[str, Any]:
        """The result of the task."""
        return dict(results[-1].result_data or {}) if results else {}


JOBS: tuple[JobDefinition[Any], ...] = (
    BootstrapGridJob(),
    BootstrapGridTriggeredJob(),
    BootstrapGridFanOutJob(),
    ExportGridJob(),
    RasterAggregationJob(),
)
