"""Mosaics as GDAL VRTs: GDAL writes the description from a GeoTIFF without pixels, the sources are put in here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from services.raster.description import Description, Layout
from services.raster.encode import open_template
from services.raster.gdal import judged_here
from services.raster.statistics import BandStatistics
from services.raster.wrapping import drop_sources, gdals_vrt

_BLOCK = {"TILED": "YES", "BLOCKXSIZE": 512, "BLOCKYSIZE": 512}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file of a mosaic: its name relative to the VRT, its size, and where its pixels lie in the mosaic.

    ``nodata``: its pixels of that value are not shown, nor are those that its mask hides when it is ``masked``, so that
    pieces may overlap.
    """

    name: str
    width: int
    height: int
    left: float
    top: float
    across: float
    down: float
    nodata: float | None = None
    masked: bool = False


def mosaic_document(
    layout: Layout,
    pieces: Sequence[Piece],
    *,
    description: Description | None = None,
    statistics: Sequence[BandStatistics] = (),
    overview: str | None = None,
) -> bytes:
    """The VRT of a mosaic; ``overview`` names a file that shows the whole at a lower resolution."""
    root = _described(layout, description, statistics)
    for number, band in enumerate(root.findall("VRTRasterBand"), start=1):
        drop_sources(band)
        _fill(band, pieces, str(number), overview)
    if layout.masked:
        mask = ElementTree.SubElement(ElementTree.SubElement(root, "MaskBand"), "VRTRasterBand", {"dataType": "Byte"})
        _fill(mask, pieces, "mask,1", overview)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8")
    return content


def _described(
    layout: Layout, description: Description | None, statistics: Sequence[BandStatistics]
) -> ElementTree.Element:
    import rasterio
    from rasterio.io import MemoryFile

    with judged_here(), MemoryFile(ext=".tif") as file:
        with open_template(file.name, layout, _BLOCK) as empty:
            if description is not None:
                description.write(empty, statistics)
        with rasterio.open(file.name, driver="GTiff") as empty:
            root = gdals_vrt(empty)
    dropped: Iterable[Any] = (*root.findall("OverviewList"), *root.findall("Metadata[@domain='IMAGE_STRUCTURE']"))
    for old in dropped:
        root.remove(old)
    return root


def _fill(band: ElementTree.Element, pieces: Sequence[Piece], number: str, overview: str | None) -> None:
    band.set("blockXSize", "512")
    band.set("blockYSize", "512")
    if overview is not None:
        low = ElementTree.SubElement(band, "Overview")
        ElementTree.SubElement(low, "SourceFilename", {"relativeToVRT": "1"}).text = overview
        ElementTree.SubElement(low, "SourceBand").text = number
    for piece in pieces:
        hidden = _hidden(piece, of_mask=number.startswith("mask"))
        source = ElementTree.SubElement(band, "SimpleSource" if hidden is None else "ComplexSource")
        ElementTree.SubElement(source, "SourceFilename", {"relativeToVRT": "1"}).text = piece.name
        ElementTree.SubElement(source, "SourceBand").text = number
        size = {"xSize": str(piece.width), "ySize": str(piece.height)}
        ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
        place = {"xOff": piece.left, "yOff": piece.top, "xSize": piece.across, "ySize": piece.down}
        ElementTree.SubElement(source, "DstRect", {name: f"{value:.12g}" for name, value in place.items()})
        if hidden is not None:
            tag, text = hidden
            ElementTree.SubElement(source, tag).text = text


def _hidden(piece: Piece, *, of_mask: bool) -> tuple[str, str] | None:
    """The element, and its text, by which a source does not show all of its pixels."""
    if of_mask:
        return ("NODATA", "0") if piece.masked else None
    if piece.nodata is not None:
        return "NODATA", f"{piece.nodata:.17g}"
    return ("UseMaskBand", "true") if piece.masked else None


def cover(pieces: Sequence[Piece], width: int, height: int) -> bool:
    """Whether every pixel of a mosaic of ``width`` x ``height`` pixels lies in a piece."""
    import numpy as np

    def ends(starts: Iterable[float], lengths: Iterable[float]) -> Any:
        return np.round([[start, start + length] for start, length in zip(starts, lengths, strict=True)], 3)

    across = ends((piece.left for piece in pieces), (piece.across for piece in pieces))
    down = ends((piece.top for piece in pieces), (piece.down for piece in pieces))
    columns, rows = (np.unique([0, size, *edges.ravel()]) for edges, size in ((across, width), (down, height)))
    covered = np.zeros((len(rows), len(columns)), dtype=bool)  # of the rectangles that begin at each row and column
    for (top, bottom), (left, right) in zip(np.searchsorted(rows, down), np.searchsorted(columns, across), strict=True):
        covered[top:bottom, left:right] = True
    return bool(covered[np.ix_(rows < height, columns < width)].all())
