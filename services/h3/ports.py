"""Where grids are kept, as the handlers see it. ``context.services[STORE]`` holds the adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from services.h3.grid import Grid, GridSpec, Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.h3.bits import Cells

STORE = "h3_grid_store"


class GridConflict(PermanentError):
    """The grid id belongs to a grid with another definition."""

    def __init__(self, grid_id: str, differing: Sequence[str]) -> None:
        super().__init__(
            f"grid_id: {grid_id!r} is taken by a grid with another {', '.join(differing)}; choose another grid_id, or"
            " set replace",
            code="GRID_EXISTS",
            details={"grid_id": grid_id, "differing": list(differing)},
        )


class GridInconsistent(PermanentError):
    """What the store holds is not what was saved into it."""

    def __init__(self, grid_id: str, details: Mapping[str, Any]) -> None:
        super().__init__(
            f"grid {grid_id!r}: the stored cells are not those that were saved",
            code="GRID_INCONSISTENT",
            details=details,
        )


@dataclass(frozen=True, slots=True, order=True)
class BatchId:
    """A batch of a grid: one resolution, counted from 0."""

    resolution: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStatistics:
    """Statistics of one raster band for cells of one resolution, each array as long as ``cells``.

    ``weight`` is the sum of the weights of the pixels counted; ``mode`` is NaN unless it was asked for.
    """

    cells: Cells
    count: NDArray[Any]
    weight: NDArray[Any]
    sum: NDArray[Any]
    mean: NDArray[Any]
    min: NDArray[Any]
    max: NDArray[Any]
    mode: NDArray[Any]


class GridStore(Protocol):
    """Grids, their cells and their statistics. What is saved as one batch is there as a whole or not at all.

    All methods raise :class:`core.errors.StoreUnavailable` when the store cannot be reached.
    """

    def begin(self, spec: GridSpec, *, replace: bool = False) -> Grid:
        """The grid of that id, made if it is not there.

        Raises:
            GridConflict: when the id belongs to a grid with another definition, unless ``replace`` drops that one.
        """
        ...

    def get(self, grid_id: str) -> Grid | None: ...

    def grids(self) -> Sequence[Grid]:
        """All grids, by id."""
        ...

    def batches(self, grid: Grid, resolution: int) -> Mapping[int, Tally]:
        """The saved batches of a resolution, by number."""
        ...

    def save_batch(self, grid: Grid, batch: BatchId, rows: Callable[[], Iterable[Cells]]) -> Tally:
        """Save the rows of a batch and the record that it is done, together; or nothing.

        A batch that is there is left as it is, and ``rows`` is not called: its tally is returned. The grid must not be
        complete.
        """
        ...

    def publish(self, grid: Grid, summary: Mapping[str, Any]) -> Grid:
        """Check the stored cells against the batches' tallies and make the grid complete. Idempotent.

        Raises:
            GridInconsistent: when they differ, or a cell is there twice.
        """
        ...

    def cells(self, grid: Grid, resolution: int) -> Iterator[Cells]:
        """The cells of a resolution, sorted, in chunks."""
        ...

    def checksum(self, grid: Grid) -> str:
        """SHA-256 (hex) over all cells as big-endian 64-bit integers, ascending."""
        ...

    def delete(self, grid_id: str) -> bool:
        """Remove a grid with all that belongs to it; False when there is none."""
        ...

    def save_statistics(self, grid: Grid, name: str, batch: BatchId, statistics: CellStatistics) -> bool:
        """Save one batch of a set of statistics; False when it was there."""
        ...

    def statistics_batches(self, grid: Grid, name: str) -> frozenset[BatchId]:
        """The saved batches of a set of statistics."""
        ...

    def statistics(self, grid: Grid, name: str) -> Iterator[CellStatistics]:
        """A set of statistics in the order of its cells, in chunks."""
        ...

    def delete_statistics(self, grid: Grid, name: str) -> bool:
        """Remove a set of statistics; False when there is none."""
        ...


def grid_store(context: DockerTaskContext) -> GridStore:
    """The store this process offers.

    Raises:
        PermanentError: NO_GRID_STORE, when it offers none.
    """
    store: GridStore | None = context.services.get(STORE)
    if store is None:
        raise PermanentError(f"this process offers no {STORE!r} to its handlers", code="NO_GRID_STORE")
    return store


def find_grid(store: GridStore, grid_id: str) -> Grid:
    """The grid of that id.

    Raises:
        PermanentError: GRID_UNKNOWN.
    """
    grid = store.get(grid_id)
    if grid is None:
        raise PermanentError(f"grid_id: there is no grid {grid_id!r}", code="GRID_UNKNOWN", details={"given": grid_id})
    return grid


def differing(known: GridSpec, wanted: GridSpec) -> list[str]:
    """The names of what differs between two definitions, of what decides a grid's cells."""
    before, after = known.definition, wanted.definition
    skipped = ("label", "source", "notes", "bbox", "area_km2")
    return [key for key in after if key not in skipped and before.get(key) != after[key]]
