"""Parameters of the H3 jobs and handlers. Light: no array library is loaded to check them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from core.jobs import JobParameters
from services.h3 import country_codes
from services.h3.grid import Containment, Method
from services.raster.parameters import SourceUrl

Resolution = Annotated[int, Field(ge=0, le=15)]
GridId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]

MAX_INLINE_POSITIONS = 20_000


class ExportFormat(StrEnum):
    """What a grid can be written as, one file a resolution."""

    PARQUET = "parquet"  # ids only
    GEOPARQUET = "geoparquet"  # with polygons
    CSV = "csv"
    GEOJSON = "geojson"


def is_location(text: str) -> bool:
    """Whether a text names a file or URL, not a country."""
    lower = text.lower()
    return "/" in text or "\\" in text or lower.endswith((".geojson", ".json"))


def _checked_area(area: Any) -> Any:
    match area:
        case str() if not is_location(area):
            return country_codes.checked(area)
        case list() if len(area) != 4:
            raise ValueError(f"a bbox is four numbers, [west, south, east, north]; {len(area)} were given")
        case dict() if _positions(area) > MAX_INLINE_POSITIONS:
            raise ValueError(
                f"GeoJSON given in place may have {MAX_INLINE_POSITIONS} positions; give the path or URL of a file"
            )
        case _:
            return area


def _positions(node: Any) -> int:
    if isinstance(node, dict):
        return sum(_positions(value) for value in node.values())
    if isinstance(node, list):
        if node and isinstance(node[0], int | float):
            return 1
        return sum(_positions(value) for value in node)
    return 0


AreaParameter = Annotated[str | list[float] | dict[str, Any], AfterValidator(_checked_area)]


class BootstrapGrid(JobParameters):
    """Parameters of ``bootstrap_h3_docker``, ``bootstrap_h3_triggered`` and ``bootstrap_h3_fanout``."""

    area: AreaParameter = Field(
        description="What the grid covers: an ISO 3166 alpha-3 country code (or `LAND`, all land), a bbox [west, "
        "south, east, north] in degrees (west > east crosses the antimeridian), a GeoJSON object of polygons, or the "
        "path or http(s) URL of a GeoJSON file."
    )
    grid_id: GridId | None = Field(
        default=None, description="Name of the grid. Default: made from the area, the method and the resolutions."
    )
    base_resolution: Resolution = Field(default=2, description="The coarsest resolution, and where a cascade starts.")
    target_resolutions: tuple[Resolution, ...] = Field(
        default=(3, 4, 5, 6, 7), min_length=1, description="The resolutions to store besides the base resolution."
    )
    method: Method = Field(
        default=Method.POLYFILL,
        description="`polyfill`: each resolution by containment in the area. `cascade`: all descendants of the base "
        "cells, an exact hierarchy that covers the base cells, not the area. `filtered_cascade`: the descendants of "
        "the overlapping base cells that belong to the area by containment.",
    )
    containment: Containment | None = Field(
        default=None,
        description="When a cell belongs to the area: its `center` lies in it, all of it does (`full`), or they "
        "`overlap`. Decides the base cells alone in a cascade. Default: `overlap` in a cascade, else `center`.",
    )
    max_cells: int = Field(
        default=100_000_000, ge=1, description="Refuse a grid that is estimated to have more cells than this."
    )
    batch_cells: int = Field(
        default=500_000,
        ge=1_000,
        le=2_000_000,
        description="Most cells saved in one transaction: what a kill can cost.",
    )
    repair_geometry: bool = Field(default=False, description="Make invalid polygons valid instead of refusing them.")
    expected_country: str | None = Field(
        default=None,
        description="Refuse an area that shares nothing with this country (alpha-3): a guard against swapped axes.",
    )
    replace: bool = Field(
        default=False, description="Drop a grid of the same id that has another definition, instead of refusing."
    )
    exports: tuple[ExportFormat, ...] = Field(
        default=(), description="Files to write when the grid is complete: `parquet`, `geoparquet`, `csv`, `geojson`."
    )
    picture: bool = Field(default=True, description="Draw the grid over the area's outline as a PNG.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        finer = [step for step in self.target_resolutions if step < self.base_resolution]
        if finer:
            raise ValueError(
                f"target_resolutions {finer} are coarser than base_resolution {self.base_resolution}; allowed are "
                f"{self.base_resolution} to 15"
            )
        if self.expected_country is not None:
            country_codes.checked(self.expected_country)
        return self

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All resolutions to store, ascending, each once."""
        return tuple(sorted({self.base_resolution, *self.target_resolutions}))

    @property
    def resolved_containment(self) -> Containment:
        """The containment with its default."""
        if self.containment is not None:
            return self.containment
        return Containment.OVERLAP if self.method is Method.CASCADE else Containment.CENTER


class FillBatches(JobParameters):
    """Parameters of ``h3_cascade_batch``: a run of batches of one resolution."""

    grid_id: GridId
    resolution: Resolution
    first: int = Field(ge=0, description="The first batch.")
    batches: int = Field(ge=1, description="How many.")


class FanOutGrid(BootstrapGrid):
    """Parameters of ``bootstrap_h3_fanout``."""

    batches_per_task: int = Field(default=2, ge=1, le=1000, description="How many batches a task of stage 2 fills.")


class FinalizeGrid(JobParameters):
    """Parameters of ``h3_finalize``."""

    grid_id: GridId
    exports: tuple[ExportFormat, ...] = ()
    picture: bool = True


class ExportGrid(JobParameters):
    """Parameters of ``h3_export``."""

    grid_id: GridId = Field(description="A complete grid.")
    formats: tuple[ExportFormat, ...] = Field(
        default=(ExportFormat.PARQUET,), min_length=1, description="What to write."
    )
    resolutions: tuple[Resolution, ...] | None = Field(default=None, description="Which resolutions. Default: all.")


class Weighting(StrEnum):
    """What a pixel counts for."""

    PIXEL = "pixel"  # each the same
    AREA = "area"  # its area on the ellipsoid


class Assignment(StrEnum):
    """Which pixels belong to a cell."""

    AUTO = "auto"  # by pixels, or by cells where these are smaller than pixels
    PIXEL_CENTERS = "pixel_centers"  # those whose centre lies in the cell
    CELL_CENTERS = "cell_centers"  # the one the cell's centre lies in


class AggregateRaster(JobParameters):
    """Parameters of ``h3_raster_aggregation``."""

    grid_id: GridId = Field(description="A complete grid.")
    source_url: SourceUrl
    resolution: Resolution = Field(description="A resolution of the grid.")
    band: int = Field(default=1, ge=1, description="Band, counted from 1.")
    name: str | None = Field(
        default=None, max_length=200, description="Name of the set of statistics. Default: file, band and options."
    )
    categorical: bool = Field(default=False, description="Also find the mode: the value with the largest weight.")
    weighting: Weighting = Field(
        default=Weighting.PIXEL, description="`pixel`: each counts 1. `area`: its square metres."
    )
    assignment: Assignment = Field(
        default=Assignment.AUTO,
        description="`pixel_centers`: pixels whose centre lies in the cell. `cell_centers`: the pixel that the cell's "
        "centre lies in, for cells smaller than pixels. `auto` picks by their sizes.",
    )
    window_pixels: int = Field(
        default=1_000_000, ge=65_536, le=16_000_000, description="Most pixels read at a time: bounds the memory."
    )
    replace: bool = Field(default=False, description="Compute a set of statistics of the same name anew.")
