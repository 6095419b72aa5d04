"""A raster as a VRT of itself, so that facts can be put around it that its own file does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


_SOURCES = frozenset({"SimpleSource", "ComplexSource", "AveragedSource", "Overview"})


def as_vrt(dataset: DatasetReader, path: Path) -> ElementTree.Element:
    """The VRTDataset of the raster ``dataset``, which was opened from ``path``, with all that it says of itself."""
    if dataset.driver == "VRT":
        return _around(path)
    tree = gdals_vrt(dataset)
    for element in tree.iter("SourceFilename"):
        name_source(element, path)
    return tree


def gdals_vrt(dataset: DatasetReader) -> ElementTree.Element:
    """The VRTDataset that GDAL writes of a raster."""
    from rasterio.io import MemoryFile
    from rasterio.shutil import copy

    with MemoryFile(ext=".vrt") as file:
        copy(dataset, file.name, driver="VRT")
        return ElementTree.fromstring(file.read())  # noqa: S314 - GDAL has just written it


def drop_sources(band: ElementTree.Element) -> None:
    """Remove what a VRTRasterBand takes its pixels from."""
    for source in [child for child in band if child.tag in _SOURCES]:
        band.remove(source)


def _around(path: Path) -> ElementTree.Element:
    """A VRT around one that :func:`written` wrote: GDAL's copy of a VRT would be another over the same sources."""
    tree = ElementTree.parse(path).getroot()  # noqa: S314 - as it was written here
    for old in tree.findall("OverviewList"):
        tree.remove(old)
    bands = [(band, str(number)) for number, band in enumerate(tree.findall("VRTRasterBand"), start=1)]
    masks = [(band, "mask,1") for band in tree.findall("MaskBand/VRTRasterBand")]
    for band, number in bands + masks:
        drop_sources(band)
        simple = ElementTree.SubElement(band, "SimpleSource")
        name_source(ElementTree.SubElement(simple, "SourceFilename"), path)
        ElementTree.SubElement(simple, "SourceBand").text = number
    return tree


def name_source(element: ElementTree.Element, path: Path) -> None:
    """Let ``element``, a SourceFilename or SourceDataset, name ``path``, which each opens for itself."""
    element.text = str(path)
    element.attrib = {"relativeToVRT": "0", "shared": "0"}


def written(tree: ElementTree.Element, target: Path) -> Path:
    """``target``, when the VRT is there as a whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    ElementTree.ElementTree(tree).write(part, encoding="utf-8")
    return part.replace(target)
