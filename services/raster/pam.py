"""What GDAL keeps of a raster in a file beside it (``.aux.xml``), put into a VRT of the raster.

Both write the same facts as the same elements. Only those are taken that describe pixels and their place: what names
other files (overviews, subdatasets) is not, nor are colours, for which the drivers of the formats that are read look
into the raster alone.
Source: https://gdal.org/en/stable/user/raster_data_model.html and https://gdal.org/en/stable/drivers/raster/vrt.html
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from copy import deepcopy
from xml.etree import ElementTree

from services.raster.description import STATISTICS_TAGS
from services.raster.errors import Refuser
from services.raster.parameters import parsed_safely

_OF_BAND = ("Description", "NoDataValue", "UnitType", "Offset", "Scale")
_NUMBERS = frozenset({"NoDataValue", "Offset", "Scale"})


def take_description(given: ElementTree.Element, tree: ElementTree.Element, refused: Refuser) -> bool:
    """Put what the PAMDataset ``given`` says into the VRTDataset ``tree``; returns whether it said anything new.

    Raises:
        RasterError: what ``refused`` makes of the reason why it cannot be read.
    """
    before = ElementTree.tostring(tree)
    _take_place(given, tree, refused)
    _take_tags(given, tree)
    bands = {band.get("band"): band for band in tree.findall("VRTRasterBand")}
    for described in given.findall("PAMRasterBand"):
        band = bands.get(described.get("band"))
        if band is None:
            continue
        for element in _of_band(described, refused):
            _replace(band, element)
        _take_tags(described, band)
    return ElementTree.tostring(tree) != before


def finite_numbers(texts: Sequence[str], count: int, refused: Refuser) -> list[float]:
    """``texts`` as numbers; a comma may stand for the decimal point.

    Raises:
        RasterError: what ``refused`` makes of it when they are not ``count`` finite numbers.
    """
    try:
        numbers = [float(text.replace(",", ".")) for text in texts]
    except ValueError as error:
        raise refused(f"has what is no number: {str(error)[:100]}") from error
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise refused(f"must give {count} finite numbers, and gives {', '.join(texts)[:100] or 'none'}")
    return numbers


def set_transform(tree: ElementTree.Element, numbers: Sequence[float]) -> None:
    """Place the VRTDataset ``tree`` by a geotransform, in GDAL's order of its six numbers."""
    known = tree.findtext("GeoTransform")
    if known is not None and [float(number) for number in known.split(",")] == list(numbers):
        return
    transform = ElementTree.Element("GeoTransform")
    transform.text = ", ".join(f"{number:.17g}" for number in numbers)
    _replace(tree, transform)


def _replace(parent: ElementTree.Element, new: ElementTree.Element) -> None:
    known = parent.findall(new.tag)
    if [_text(each) for each in known] == [_text(new)]:
        return
    for each in known:
        parent.remove(each)
    parent.append(deepcopy(new))


def _text(element: ElementTree.Element) -> bytes:
    return b"".join(ElementTree.tostring(element).split())


def _take_place(given: ElementTree.Element, tree: ElementTree.Element, refused: Refuser) -> None:
    system = given.find("SRS")
    if system is not None and (system.text or "").strip():
        _check_crs(system.text, refused)
        _replace(tree, system)
    transform = given.find("GeoTransform")
    if transform is not None:
        set_transform(tree, finite_numbers((transform.text or "").split(","), 6, refused))
    points = given.find("GCPList")
    if points is not None and tree.find("GeoTransform") is None:
        if points.get("Projection"):
            _check_crs(points.get("Projection"), refused)
        for point in points.findall("GCP"):
            finite_numbers([point.get(name, "") for name in ("Pixel", "Line", "X", "Y")], 4, refused)
        _replace(tree, points)


def _check_crs(text: str | None, refused: Refuser) -> None:
    try:
        parsed_safely(text or "")
    except ValueError as error:
        raise refused(f"names a coordinate reference system that is not taken: {error}") from error


def _take_tags(given: ElementTree.Element, into: ElementTree.Element) -> None:
    """The tags of the default domain, those of statistics left out: the pixels may have changed since."""
    tags = {
        item.get("key", ""): item
        for metadata in given.findall("Metadata")
        if not metadata.get("domain")
        for item in metadata.findall("MDI")
        if item.get("key") and not item.get("key", "").startswith(STATISTICS_TAGS)
    }
    if not tags:
        return
    known = next((each for each in into.findall("Metadata") if not each.get("domain")), None)
    if known is None:
        known = ElementTree.SubElement(into, "Metadata")
    for item in known.findall("MDI"):
        new = tags.get(item.get("key", ""))
        if new is not None and new.text == item.text:
            del tags[item.get("key", "")]
        elif new is not None:
            known.remove(item)
    known.extend(deepcopy(list(tags.values())))


def _of_band(described: ElementTree.Element, refused: Refuser) -> Iterator[ElementTree.Element]:
    for tag in _OF_BAND:
        element = described.find(tag)
        if element is None:
            continue
        if tag in _NUMBERS:
            element = deepcopy(element)
            element.text = _exact(element, refused)
            element.attrib.clear()
        yield element


def _exact(element: ElementTree.Element, refused: Refuser) -> str:
    """The number as text; beside a rounded one GDAL writes its eight bytes, in hexadecimal digits."""
    text = (element.text or "").strip()
    try:
        float(text)
        exact = bytes.fromhex(element.get("le_hex_equiv", ""))
        return repr(struct.unpack("<d", exact)[0]) if len(exact) == struct.calcsize("<d") else text
    except ValueError as error:
        raise refused(f"has a <{element.tag}> that is no number: {text[:100]!r}") from error
