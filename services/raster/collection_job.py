"""``process_raster_collection``: many rasters by many workers, then one collection over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from core.jobs import JobDefinition, Stage
from core.records import FailurePolicy, RunsOn, TaskPlan, TaskResult
from core.states import TaskStatus
from services.raster.outputs import safe_stem
from services.raster.parameters import ProcessCollection

_OWN = frozenset({"sources", "collection_id", "description", "failure_policy"})
_GRID = ("crs", "dtype", "band_count", "shape", "transform", "nodata", "masked")


class ProcessRasterCollection(JobDefinition[ProcessCollection]):
    """A task for each source, then one that brings them together."""

    job_type = "process_raster_collection"
    description = "Makes COGs of many rasters, spread over the workers, and one STAC collection and mosaic of them."
    parameters = ProcessCollection
    plans_with_failures = True
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(number=1, name="process_rasters", task_type="process_raster_complete", runs_on=RunsOn.DOCKER),
        Stage(number=2, name="collect", task_type="collect_rasters", runs_on=RunsOn.DOCKER),
    )

    def policy(self, parameters: ProcessCollection) -> FailurePolicy:
        """As the parameters say."""
        return FailurePolicy(parameters.failure_policy)

    def plan(self, stage: Stage, parameters: ProcessCollection, previous: Sequence[TaskResult]) -> Iterable[TaskPlan]:
        """A task a source; then one with what has become of each."""
        given = parameters.model_dump(mode="json", exclude_none=True)
        if stage.number == 1:
            shared = {name: value for name, value in given.items() if name not in _OWN}
            return [
                TaskPlan(
                    parameters={
                        **shared,
                        "source_url": source,
                        "output_name": name,
                        "item_id": name,
                        "collection": parameters.collection_id,
                    }
                )
                for source, name in zip(parameters.sources, names_of(parameters.sources), strict=True)
            ]
        return [TaskPlan(parameters=_outcome(parameters, given, previous))]

    def finalize(self, parameters: ProcessCollection, results: Sequence[TaskResult]) -> Mapping[str, Any]:  # noqa: ARG002
        """What the collecting task found."""
        return (results[0].result_data or {}) if results else {}


def names_of(sources: Sequence[str]) -> list[str]:
    """A name for the outputs of each source, from its file name; where two are alike they are numbered."""
    stems = [_plain(safe_stem(PurePosixPath(unquote(urlsplit(source).path)).name or "raster")) for source in sources]
    often = Counter(stem.lower() for stem in stems)
    taken = set(often)
    names: list[str] = []
    for stem in stems:
        name, number = stem, 1
        while often[stem.lower()] > 1 and (number == 1 or name.lower() in taken):
            number += 1
            name = f"{stem}_{number - 1}"
        taken.add(name.lower())
        names.append(name)
    return names


def _plain(stem: str) -> str:
    """``stem`` in the characters that ids of items are made of."""
    plain = "".join(character if character.isascii() else "_" for character in stem).strip("._")
    return plain[:90] or "raster"


def _outcome(parameters: ProcessCollection, given: Mapping[str, Any], previous: Sequence[TaskResult]) -> dict[str, Any]:
    processed, failed = [], []
    for source, result in zip(parameters.sources, previous, strict=True):
        if result.status is TaskStatus.COMPLETED and result.result_data is not None:
            processed.append({"source": source, **_facts(result.result_data)})
        else:
            error = result.error_details
            failed.append(
                {
                    "source": source,
                    "code": None if error is None else error.code or error.type,
                    "message": "the task was cancelled" if error is None else error.message,
                }
            )
    kept = {name: given[name] for name in ("collection_id", "description", "output_dir") if name in given}
    return {**kept, "processed": processed, "failed": failed}


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the collection needs to know of a processed raster: one COG, or a mosaic of tiles."""
    tiled = "tiles" in result
    facts = result["tiles"] if tiled else result["cog"]
    return {
        "stac": {"path": result["stac"]["path"]},
        "path": result["mosaic"]["path"] if tiled else result["cog"]["path"],
        "described_by": result["overview"]["path"] if tiled else result["cog"]["path"],
        "grid": {name: facts[name] for name in _GRID},
    }
