"""Where pixels of a warp come from, as polynomials of the third order that GDAL evaluates in place of the projection.

GDAL places pixels one by one where a row bends by more than the tolerance within a few of them, which rows of 10 m
pixels do: half of a warp's time. A polynomial over a part of the output is nearer the truth than lines along its rows,
and costs a tenth. It is fitted to exact places, held against others, and taken where it is near enough for all of them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from services.raster.gdal import gdal_errors, of_one_format
from services.raster.profile import Georeferencing, Profile
from services.raster.source import first_bytes
from services.raster.tile_grid import Box
from services.raster.wrapping import gdals_vrt, name_source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    Floats = npt.NDArray[np.float64]

_ORDER = 3
_NODES = 8
_CHECKS = 17
_SMALLEST = 256


def can_be_placed_by_polynomials(source: DatasetReader, profile: Profile, target: CRS) -> bool:
    """Whether one formula leads from ``target`` to the raster's CRS everywhere: both are of one datum, and no choice
    among shifts depends on the place. Only for GeoTIFFs on disk that GDAL, by their name alone, takes for such.
    """
    return (
        profile.georeferencing is Georeferencing.TRANSFORM
        and source.driver == "GTiff"
        and Path(source.name).is_file()
        and of_one_format(first_bytes(Path(source.name)))
        and profile.crs is not None
        and _of_one_datum(profile.crs, target)
    )


def _of_one_datum(one: CRS, other: CRS) -> bool:
    from pyproj import CRS as ProjCRS

    known = [ProjCRS.from_wkt(crs.to_wkt()) for crs in (one, other)]
    first, second = (None if crs.is_bound or crs.is_compound else crs.geodetic_crs for crs in known)
    return first is not None and second is not None and first.equals(second, ignore_axis_order=True)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the output; ``document`` is the VRT that warps it alone, None where no polynomial is near enough."""

    box: Box
    document: str | None


@dataclass(frozen=True, slots=True)
class _Fit:
    """Points of a part, in its own pixels, their exact ``places`` in pixels of the source, and by how many of these a
    polynomial through them is off elsewhere.
    """

    nodes: Floats
    places: Floats
    off: float


@dataclass(frozen=True, slots=True)
class LocalPlaces:
    """Cuts boxes of a warp into parts that are placed by polynomials.

    Args:
        view: the whole warp, as GDAL wrote it, without what differs from part to part.
        to_source: from its coordinates to its pixels.
        source_crs: the source's.
        crs: the output's.
        transform: from pixels of the output to its coordinates.
        tolerance: by how many pixels of the source a place may be off. Never less than coordinates are rounded by,
            which pixels of a centimetre feel.
    """

    view: ElementTree.Element
    to_source: Affine
    source_crs: CRS
    crs: CRS
    transform: Affine
    tolerance: float

    @classmethod
    def of(
        cls,
        view: DatasetReader,
        source: DatasetReader,
        source_crs: CRS,
        *,
        nodata: float | None,
        tolerance: float,
    ) -> LocalPlaces:
        """For an open warp of an open source, with the nodata value of either, of which GDAL writes 16 digits."""
        written, to_source = gdals_vrt(view), ~source.transform
        if nodata is not None:
            for element in (*written.iter("SrcNoDataReal"), *written.iter("DstNoDataReal")):
                element.text = repr(float(nodata))
        for tag in ("GeoTransform", "OverviewList", "BlockXSize", "BlockYSize"):
            for old in written.findall(tag):
                written.remove(old)
        name_source(next(written.iter("SourceDataset")), Path(source.name).absolute())
        next(written.iter("Transformer")).clear()
        return cls(
            view=written,
            to_source=to_source,
            source_crs=source_crs,
            crs=view.crs,
            transform=view.transform,
            tolerance=max(tolerance, _rounding(source) * max(map(abs, [*to_source[:2], *to_source[3:5]]))),
        )

    def parts(self, box: Box) -> Iterator[Part]:
        """``box`` in as few parts as polynomials are near enough for, or as it is where small ones would not be."""
        fit = self._fit(box)
        size = max(box.height, box.width)
        if fit is None or fit.off * min(1.0, _SMALLEST / size) ** (_ORDER + 1) > self.tolerance:
            yield Part(box, None)
        elif fit.off <= self.tolerance:
            yield Part(box, self._document(box, fit))
        else:
            for half in _halves(box):
                yield from self.parts(half)

    def _fit(self, box: Box) -> _Fit | None:
        """A polynomial for ``box``, or None where some of it comes from nowhere."""
        import numpy as np

        size = np.array([box.width, box.height])
        nodes = _crossed((1 + np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)) / 2)
        checks = _crossed(np.linspace(0, 1, _CHECKS))
        exact = self._exact(np.concatenate([nodes, checks]) * size + np.array([box.left, box.top]))
        if exact is None:
            return None
        at_nodes, at_checks = exact[: len(nodes)], exact[len(nodes) :]
        middle = at_nodes.mean(axis=0)
        fitted = np.linalg.lstsq(_terms(nodes), at_nodes - middle, rcond=None)[0]
        off = np.abs(_terms(checks) @ fitted - (at_checks - middle)).max()
        return _Fit(nodes * size, at_nodes, float(off))

    def _exact(self, places: Floats) -> Floats | None:
        """Where pixels of the output come from: pixels of the source, or None where some come from nowhere."""
        import numpy as np
        from rasterio.warp import transform

        there = _moved(self.transform, places)
        try:
            x, y = transform(self.crs, self.source_crs, there[:, 0], there[:, 1])[:2]
        except gdal_errors():
            return None
        exact = _moved(self.to_source, np.array([x, y]).T)
        return exact if np.isfinite(exact).all() else None

    def _document(self, box: Box, fit: _Fit) -> str:
        root = copy.deepcopy(self.view)
        root.set("rasterXSize", str(box.width))
        root.set("rasterYSize", str(box.height))
        next(root.iter("Transformer")).append(_by_polynomial(fit))
        return ElementTree.tostring(root, encoding="unicode")


def _rounding(source: DatasetReader) -> float:
    """What a few operations round coordinates by, in their own unit."""
    largest: float = max(map(abs, source.bounds))
    return 8 * sys.float_info.epsilon * largest


def _by_polynomial(fit: _Fit) -> ElementTree.Element:
    """GDAL's transformer from the pixels of a part, as if they were coordinates, by ground control points."""
    root = ElementTree.Element("GenImgProjTransformer")
    points = ElementTree.SubElement(ElementTree.SubElement(root, "SrcGCPTransformer"), "GCPTransformer")
    ElementTree.SubElement(points, "Order").text = str(_ORDER)
    ElementTree.SubElement(points, "Reversed").text = "0"
    listed = ElementTree.SubElement(points, "GCPList")
    for (x, y), (pixel, line) in zip(fit.nodes.tolist(), fit.places.tolist(), strict=True):
        place = {"Id": "", "Pixel": repr(pixel), "Line": repr(line), "X": repr(x), "Y": repr(y)}
        ElementTree.SubElement(listed, "GCP", place)
    for tag in ("DstGeoTransform", "DstInvGeoTransform"):
        ElementTree.SubElement(root, tag).text = "0,1,0,0,0,1"
    return root


def _halves(box: Box) -> tuple[Box, Box]:
    if box.height >= box.width:
        half = box.height // 2
        return (
            Box(box.top, box.left, half, box.width),
            Box(box.top + half, box.left, box.height - half, box.width),
        )
    half = box.width // 2
    return Box(box.top, box.left, box.height, half), Box(box.top, box.left + half, box.height, box.width - half)


def _moved(by: Affine, points: Floats) -> Floats:
    """Rows of (x, y), moved by a transform."""
    import numpy as np

    moved: Floats = points @ np.array([[by.a, by.d], [by.b, by.e]]) + np.array([by.c, by.f])
    return moved


def _crossed(ticks: Floats) -> Floats:
    """Every pair of ticks, as rows of (x, y)."""
    import numpy as np

    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)


def _terms(places: Floats) -> Any:
    """The ten terms of a polynomial of the third order at (x, y) between 0 and 1."""
    import numpy as np

    x, y = (2 * places - 1).T
    return np.stack([x**i * y**j for i in range(_ORDER + 1) for j in range(_ORDER + 1 - i)], axis=-1)
