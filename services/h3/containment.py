"""Which cells belong to an area: the H3 library's containment modes, computed for whole arrays.

The answer is that of ``polygonToCellsExperimental``: a cell belongs by its centre, when it lies wholly in the polygon,
or when they overlap, with straight edges in longitude and latitude. It is found by descending the hierarchy: a box that
holds a cell and all its descendants decides, for most cells, all of these at once; only cells along the boundary are
compared with the polygon one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import STRtree
from shapely.geometry.base import BaseGeometry

from services.h3 import bits, geodesy
from services.h3.bits import Cells
from services.h3.geodesy import Geometries
from services.h3.grid import Containment

Mask = NDArray[np.bool_]

CHUNK_CELLS = 7**6


class Region:
    """An area, ready to be compared with cells. ``geometry``: valid polygons within longitudes -180..180."""

    def __init__(self, geometry: BaseGeometry) -> None:
        self.geometry = geometry
        shapely.prepare(geometry)
        self._lines = shapely.boundary(geometry)
        shapely.prepare(self._lines)
        self._ring_starts = STRtree(shapely.get_point(shapely.get_rings(shapely.get_parts(geometry)), 0))
        starts = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(shapely.get_parts(geometry)), 0))
        self._start_longitudes, self._start_latitudes = starts[:, 0], starts[:, 1]

    def sort_out(self, cells: Cells, resolution: int) -> tuple[Mask, Mask]:
        """For cells of one resolution: those with all descendants wholly inside, and those still undecided.

        The others, and all their descendants, share nothing with the area.
        """
        boxes = geodesy.descendant_boxes(cells, resolution)
        undecided = self._touched(boxes.main)
        if len(boxes.split):
            undecided[boxes.split] |= self._touched(boxes.rest)
        inside = np.zeros(len(cells), dtype=bool)
        clear = np.flatnonzero(~undecided)
        inside[clear] = shapely.contains_xy(self.geometry, boxes.longitudes[clear], boxes.latitudes[clear])
        return inside, undecided

    def _touched(self, boxes: Geometries) -> Mask:
        """Which boxes (rings) the boundary of the area crosses, or which hold a ring of it."""
        touched = np.asarray(shapely.intersects(self._lines, boxes))
        touched[self._ring_starts.query(boxes)[0]] = True
        return touched

    def contains(self, cells: Cells, resolution: int, mode: Containment) -> Mask:
        """Which cells of one resolution belong to the area by ``mode``."""
        match mode:
            case Containment.CENTER:
                return self._holds_centre(cells)
            case Containment.FULL:
                shapes = geodesy.polygons(cells, resolution)
                return np.asarray(shapely.covers(self.geometry, shapes))
            case Containment.OVERLAP:
                return self._overlaps(cells, resolution)

    def _holds_centre(self, cells: Cells) -> Mask:
        longitudes, latitudes = geodesy.centres(cells)
        found = shapely.contains_xy(self.geometry, longitudes, latitudes)
        on_seam = np.flatnonzero(np.abs(longitudes) == 180.0)
        if len(on_seam):
            both = [shapely.intersects_xy(self.geometry, side, latitudes[on_seam]) for side in (-180.0, 180.0)]
            found[on_seam] = both[0] & both[1]
        return np.asarray(found)

    def _overlaps(self, cells: Cells, resolution: int) -> Mask:
        """Overlap as the library has it: a centre or a vertex inside, edges that cross, or a part within the cell.

        A part that no edge of a cell crosses belongs to the cell that holds its first vertex on the sphere.
        """
        shapes = geodesy.polygons(cells, resolution)
        found = self._holds_centre(cells)
        rest = np.flatnonzero(~found)
        crossed = shapely.intersects(self._lines, shapely.boundary(shapes[rest]))
        corners = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(first_parts(shapes[rest])), 0))
        found[rest] = crossed | shapely.contains_xy(self.geometry, corners[:, 0], corners[:, 1])
        starts = geodesy.cells_at(self._start_longitudes, self._start_latitudes, resolution)
        return found | np.isin(cells, starts)


def first_parts(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Each polygon, or the first polygon of a multipolygon."""
    return np.asarray(shapely.get_geometry(shapes, 0))


def select(region: Region, cells: Cells, resolution: int, mode: Containment) -> Cells:
    """The descendants at ``resolution`` of ``cells`` (one resolution, sorted) that belong to the area, sorted."""
    return bits.mixed_descendants(np.concatenate(_members(region, cells, resolution, mode)), resolution)


def select_in_chunks(
    region: Region, cells: Cells, resolution: int, mode: Containment, *, chunk: int = CHUNK_CELLS
) -> Iterator[Cells]:
    """What :func:`select` returns, in order, in pieces of about ``chunk`` cells: only one is in memory at a time."""
    members = np.concatenate(_members(region, cells, resolution, mode))
    yield from bits.descendants_in_chunks(members, resolution, chunk)


def count(region: Region, cells: Cells, resolution: int, mode: Containment) -> int:
    """How many cells :func:`select` would return, without making them."""
    return sum(
        int(bits.descendant_counts(part, resolution).sum()) for part in _members(region, cells, resolution, mode)
    )


def _members(region: Region, cells: Cells, resolution: int, mode: Containment) -> list[Cells]:
    """Cells of several resolutions whose descendants at ``resolution`` are the ones that belong to the area."""
    if not len(cells):
        return [cells]
    own = int(bits.resolution_of(cells[:1])[0])
    # A centre is compared with the polygon as quickly as a box: the last step needs no boxes in that mode.
    last = resolution - 1 if mode is Containment.CENTER else resolution
    members, boundary = descend(region, cells, max(own, last))
    boundary = bits.children(boundary, resolution)
    if len(boundary):
        members.append(boundary[region.contains(boundary, resolution, mode)])
    return members


def descend(region: Region, cells: Cells, resolution: int) -> tuple[list[Cells], Cells]:
    """Sort out the descendants of ``cells`` (one resolution) step by step down to ``resolution``.

    Returns:
        Cells of several resolutions that lie wholly inside with all their descendants, and the cells at ``resolution``
        that are undecided.
    """
    whole: list[Cells] = []
    undecided = cells
    for step in range(int(bits.resolution_of(cells[:1])[0]), resolution + 1):
        undecided = bits.children(undecided, step)
        inside, open_ = region.sort_out(undecided, step)
        whole.append(undecided[inside])
        undecided = undecided[open_]
        if not len(undecided):
            return whole, undecided
    return whole, undecided
