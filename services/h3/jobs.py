"""The H3 jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from core.jobs import JobDefinition, P, Stage
from core.records import RunsOn, TaskPlan, TaskResult
from services.h3.parameters import AggregateRaster, BootstrapGrid, ExportGrid, FanOutGrid


class _OneTaskAStage(JobDefinition[P]):
    """Every stage is one task with the job's parameters; the last one's result is the job's."""

    plans_at_submission = True

    def plan(self, stage: Stage, parameters: P, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:  # noqa: ARG002
        """One task with the job's parameters."""
        return [TaskPlan(parameters=parameters.model_dump(mode="json"))]

    def finalize(self, parameters: P, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """The result of the last task."""
        return dict(results[-1].result_data or {}) if results else {}


class BootstrapGridJob(_OneTaskAStage[BootstrapGrid]):
    """One long task on the Docker worker."""

    job_type = "bootstrap_h3_docker"
    description = "Makes the H3 grid of an area at several resolutions: one checkpointed task on the Docker worker."
    parameters = BootstrapGrid
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="bootstrap", task_type="h3_bootstrap_complete"),)


class BootstrapGridTriggeredJob(_OneTaskAStage[BootstrapGrid]):
    """The function checks and estimates; the Docker worker makes the grid."""

    job_type = "bootstrap_h3_triggered"
    description = "Checks the area and shows the estimate on a function, then makes its H3 grid on the Docker worker."
    parameters = BootstrapGrid
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="validate", task_type="h3_validate_area", runs_on=RunsOn.FUNCTIONS),
        Stage(number=2, name="bootstrap", task_type="h3_bootstrap_complete"),
    )


class ExportGridJob(_OneTaskAStage[ExportGrid]):
    """One task that writes files."""

    job_type = "export_h3_docker"
    description = "Writes a complete H3 grid to Parquet, GeoParquet, CSV or GeoJSON files."
    parameters = ExportGrid
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="export", task_type="h3_export"),)


class RasterAggregationJob(_OneTaskAStage[AggregateRaster]):
    """One long task on the Docker worker."""

    job_type = "h3_raster_aggregation_docker"
    description = "Zonal statistics of a raster band for every cell of an H3 grid, windowed and checkpointed."
    parameters = AggregateRaster
    stages: ClassVar[tuple[Stage, ...]] = (Stage(number=1, name="aggregate", task_type="h3_raster_aggregation"),)


class BootstrapGridFanOutJob(_OneTaskAStage[FanOutGrid]):
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


JOBS: tuple[JobDefinition[Any], ...] = (
    BootstrapGridJob(),
    BootstrapGridTriggeredJob(),
    BootstrapGridFanOutJob(),
    ExportGridJob(),
    RasterAggregationJob(),
)
