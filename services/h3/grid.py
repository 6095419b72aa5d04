"""What a grid is: its definition as a value, the same in parameters, in the store and in results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.jobs import canonical_json

PLAN_VERSION = 1
"""Raised when batches are cut differently: a grid begun by another version is not continued."""


class Containment(StrEnum):
    """When a cell belongs to an area."""

    CENTER = "center"  # its centre lies in the area
    FULL = "full"  # all of it lies in the area
    OVERLAP = "overlap"  # any of it lies in the area


class Method(StrEnum):
    """How the cells of a resolution are defined."""

    POLYFILL = "polyfill"  # each resolution by containment in the area
    CASCADE = "cascade"  # all descendants of the base cells
    FILTERED_CASCADE = "filtered_cascade"  # those descendants of the base cells that belong to the area


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSpec:
    """A grid's definition. ``resolutions`` ascend and start with ``base_resolution``.

    ``containment`` is the rule for every resolution in polyfill and filtered cascade, for the base cells in cascade.
    ``boundary`` is little-endian WKB, longitude and latitude in degrees.
    """

    grid_id: str
    method: Method
    containment: Containment
    base_resolution: int
    resolutions: tuple[int, ...]
    batch_cells: int
    label: str
    source: str
    boundary: bytes
    bbox: tuple[float, float, float, float]
    area_km2: float
    notes: tuple[str, ...] = ()

    @property
    def boundary_sha256(self) -> str:
        """SHA-256 (hex) of the boundary."""
        return hashlib.sha256(self.boundary).hexdigest()

    @property
    def definition(self) -> Mapping[str, Any]:
        """All but the boundary, JSON-ready."""
        return {
            "grid_id": self.grid_id,
            "method": str(self.method),
            "containment": str(self.containment),
            "base_resolution": self.base_resolution,
            "resolutions": list(self.resolutions),
            "batch_cells": self.batch_cells,
            "label": self.label,
            "source": self.source,
            "boundary_sha256": self.boundary_sha256,
            "bbox": list(self.bbox),
            "area_km2": self.area_km2,
            "notes": list(self.notes),
            "plan_version": PLAN_VERSION,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the cells and how they are cut into batches."""
        decisive = {key: value for key, value in self.definition.items() if key not in ("label", "source", "notes")}
        return hashlib.sha256(canonical_json(decisive).encode()).hexdigest()

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any], boundary: bytes) -> GridSpec:
        """The inverse of :attr:`definition` and :attr:`boundary`."""
        return cls(
            grid_id=definition["grid_id"],
            method=Method(definition["method"]),
            containment=Containment(definition["containment"]),
            base_resolution=definition["base_resolution"],
            resolutions=tuple(definition["resolutions"]),
            batch_cells=definition["batch_cells"],
            label=definition["label"],
            source=definition["source"],
            boundary=boundary,
            bbox=tuple(definition["bbox"]),
            area_km2=definition["area_km2"],
            notes=tuple(definition["notes"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid in a store. ``key`` is the store's short name for it; ``summary`` is there once it is complete."""

    key: int
    spec: GridSpec
    complete: bool = False
    summary: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many cells, and their indices combined by exclusive or: equal tallies, equal sets, but for one in 2**64."""

    cells: int = 0
    xor: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.cells + other.cells, self.xor ^ other.xor)
