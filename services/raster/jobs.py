"""The raster jobs: the chain as three stages, and as one checkpointed task on the Docker worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from core.jobs import JobDefinition, Stage
from core.records import RunsOn, TaskPlan, TaskResult
from services.raster.parameters import (
    CogParameters,
    ItemParameters,
    OutputParameters,
    ProcessRaster,
    ProcessRasterSteps,
    ReadParameters,
)

VALIDATE, COG, STAC = 1, 2, 3


class ProcessRasterV2(JobDefinition[ProcessRasterSteps]):
    """Validate, COG, STAC: one task a stage, each fed by the one before."""

    job_type = "process_raster_v2"
    description = "Validates a raster, makes a Cloud Optimized GeoTIFF of it, and describes that in a STAC item."
    parameters = ProcessRasterSteps
    plans_at_submission = True
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=VALIDATE, name="validate", task_type="validate_raster", runs_on=RunsOn.FUNCTIONS),
        Stage(number=COG, name="create_cog", task_type="create_cog", runs_on=RunsOn.FUNCTIONS),
        Stage(number=STAC, name="create_stac_item", task_type="create_stac_item", runs_on=RunsOn.FUNCTIONS),
    )

    def plan(self, stage: Stage, parameters: ProcessRasterSteps, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """One task: the job's parameters that concern it, and what the stage before found."""
        given = parameters.model_dump(mode="json", exclude_none=True)
        match stage.number:
            case 1:
                return [TaskPlan(parameters=_only(given, ReadParameters))]
            case 2:
                detected = _result(previous)["raster_type"]["detected_type"]
                wanted = _only(given, ReadParameters, CogParameters, OutputParameters)
                return [TaskPlan(parameters={"raster_type": detected} | wanted)]
            case _:
                cog = _result(previous)
                found = {"cog_path": cog["path"], "raster_type": cog["raster_type"]} | _present(cog, "before")
                return [TaskPlan(parameters=_only(given, ItemParameters) | found)]

    def finalize(self, parameters: ProcessRasterSteps, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """What the STAC stage left: it names the COG, the item and the thumbnail."""
        return _result(results)


class ProcessRasterDocker(JobDefinition[ProcessRaster]):
    """The whole chain in one task, with a checkpoint after each phase."""

    job_type = "process_raster_docker"
    description = "Validate, COG and STAC in one resumable task on the Docker worker; for rasters of any size."
    parameters = ProcessRaster
    plans_at_submission = True
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="process_raster", task_type="process_raster_complete", runs_on=RunsOn.DOCKER),
    )

    def plan(self, stage: Stage, parameters: ProcessRaster, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:  # noqa: ARG002
        """One task with the job's own parameters."""
        return [TaskPlan(parameters=parameters.model_dump(mode="json", exclude_none=True))]

    def finalize(self, parameters: ProcessRaster, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """The task's result."""
        return _result(results)


class ProcessRasterTriggered(ProcessRasterDocker):
    """A gate on functions, then the whole chain on the Docker worker: bad rasters never wake it up."""

    job_type = "process_raster_triggered"
    description = "Validates a raster on functions, and triggers the Docker worker only for one that can be processed."
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="validate_and_trigger", task_type="validate_and_trigger_docker", runs_on=RunsOn.FUNCTIONS),
        Stage(number=2, name="process_raster", task_type="process_raster_complete", runs_on=RunsOn.DOCKER),
    )

    def plan(self, stage: Stage, parameters: ProcessRaster, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """The gate sees what concerns reading; the worker sees everything."""
        if stage.number == 1:
            return [TaskPlan(parameters=_only(parameters.model_dump(mode="json", exclude_none=True), ReadParameters))]
        return super().plan(stage, parameters, previous)


def _result(results: Sequence[TaskResult]) -> Mapping[str, Any]:
    return results[0].result_data or {}


def _only(
    given: Mapping[str, Any], *models: type[ReadParameters | CogParameters | ItemParameters | OutputParameters]
) -> dict[str, Any]:
    names = {name for model in models for name in model.model_fields}
    return {name: value for name, value in given.items() if name in names}


def _present(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: given[name]} if name in given else {}
