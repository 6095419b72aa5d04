"""GDAL VRTs: taken when everything they name is a plain raster in their own directory or in one that the settings name.

A VRT is text that names other files, and GDAL would open whatever it names, so that it is never opened as it came: it
is parsed without entities, every element must be known, every file is checked, also those beside the rasters that it
names, and GDAL opens a rewritten copy.
Source: https://gdal.org/en/stable/drivers/raster/vrt.html
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

from core.errors import InvalidInput, PermanentError
from core.storage import Storage
from services.raster.companions import found_beside, joined
from services.raster.errors import Code, RasterError
from services.raster.gdal import of_one_format
from services.raster.parameters import parsed_safely
from services.raster.safe_xml import parsed
from services.raster.source import Source, first_bytes, readable_file
from services.raster.validation import open_whole
from services.raster.wrapping import name_source, written

MAX_FILES = 5_000

_MOSAIC = frozenset({"VRTDataset", "VRTRasterBand", "MaskBand", "SimpleSource", "ComplexSource", "AveragedSource"})
_DESCRIPTION = frozenset(
    {"Metadata", "MDI", "ColorTable", "Entry", "CategoryNames", "Category", "GCPList", "GCP", "Histograms", "HistItem"}
)
_OF_DATASET = frozenset({"SRS", "GeoTransform"})
_OF_BAND = frozenset(
    {
        "Description",
        "NoDataValue",
        "HideNoDataValue",
        "ColorInterp",
        "UnitType",
        "Offset",
        "Scale",
        "BlockXSize",
        "BlockYSize",
    }
)
_OF_SOURCE = frozenset(
    {
        "SourceFilename",
        "SourceBand",
        "SrcRect",
        "DstRect",
        "NODATA",
        "ScaleOffset",
        "ScaleRatio",
        "LUT",
        "ColorTableComponent",
        "UseMaskBand",
    }
)
_OF_HISTOGRAM = frozenset({"HistMin", "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate", "HistCounts"})
_VALUES = _OF_DATASET | _OF_BAND | _OF_SOURCE | _OF_HISTOGRAM
_KNOWN = _MOSAIC | _DESCRIPTION | _VALUES
_DROPPED = frozenset({"SourceProperties", "OverviewList"})
_OTHER_NAMESPACE = re.compile(r"^[A-Za-z][A-Za-z0-9_+.-]*:|^/vsi|^<|://")


def is_vrt(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is meant to be a VRT."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<VRTDataset" in head


def rewritten(source: Source, directory: Path, storage: Storage) -> Source:
    """A copy of the VRT ``source`` in ``directory`` that names nothing but checked rasters, by absolute path.

    Raises:
        RasterError: VRT_REFUSED, saying which part of it is not taken; or why one of its rasters is not.
    """
    tree = parsed(source.path, "VRTDataset", lambda why: _refused(source, why))
    _refuse_unknown(tree, source)
    for name in ("SRS", "GCPList"):
        _check_crs(tree, name, source)
    files: dict[Path, Source] = {}
    for element in tree.iter("SourceFilename"):
        path = _checked_file(element, source, storage)
        if path not in files:
            if len(files) == MAX_FILES:
                raise _refused(source, f"names more than {MAX_FILES} files")
            files[path] = _checked_raster(path, source, storage, directory / f"joined-{len(files)}")
        name_source(element, files[path].path)
    target = written(tree, directory / "source.vrt")
    versions = sha256("\n".join([source.version, *(file.version for file in files.values())]).encode()).hexdigest()
    file_bytes = max(1, sum(file.size for file in files.values()))
    return replace(source, path=target, driver="VRT", version=versions, file_bytes=file_bytes)


def _refused(source: Source, why: str) -> RasterError:
    return RasterError(Code.VRT_REFUSED, f"source_url: the VRT {source.name} {why}")


def _refuse_unknown(tree: ElementTree.Element, source: Source) -> None:
    for parent in tree.iter():
        if parent.tag in _VALUES and len(parent):
            raise _refused(source, f"has elements within <{parent.tag}>, where only text belongs")
        if "subClass" in parent.attrib:
            raise _refused(
                source, f"has a <{parent.tag}> of subclass {parent.get('subClass')!r}; only plain mosaics are taken"
            )
        for child in list(parent):
            if child.tag in _DROPPED:
                parent.remove(child)
            elif child.tag not in _KNOWN:
                raise _refused(source, f"has a <{child.tag}>, which is not taken; only plain mosaics are")


def _check_crs(tree: ElementTree.Element, name: str, source: Source) -> None:
    for element in tree.iter(name):
        text = element.get("Projection") if name == "GCPList" else element.text
        if text and text.strip():
            try:
                parsed_safely(text)
            except ValueError as error:
                raise RasterError(Code.CRS_INVALID, f"source_url: the VRT {source.name}: {error}") from error


def _checked_file(element: ElementTree.Element, source: Source, storage: Storage) -> Path:
    name = (element.text or "").strip()
    if not name or "\0" in name or _OTHER_NAMESPACE.search(name):
        raise _refused(source, f"names {name[:100]!r}, which is no plain file")
    home = source.path.parent
    path = Path(os.path.realpath(home / name if element.get("relativeToVRT") == "1" else Path(name)))
    if not (path.is_relative_to(os.path.realpath(home)) or storage.listed(path)):
        raise _refused(
            source,
            f"names {name[:100]!r}, outside its own directory; files elsewhere are taken only below a directory of "
            "SOURCE_ALLOWED_ROOTS",
        )
    return storage.readable(path, field="source_url")


def _checked_raster(path: Path, source: Source, storage: Storage, directory: Path) -> Source:
    try:
        readable_file(path)
        raster = Source.of_file(path)
        if not of_one_format(first_bytes(path)):
            raise _refused(source, f"names {path.name}, which is in none of the formats that are read")
        with open_whole(raster):
            pass
        return joined(raster, found_beside(path, storage, field="source_url"), directory)
    except (PermanentError, InvalidInput) as error:
        code = getattr(error, "code", None)
        if code == Code.VRT_REFUSED:
            raise
        raise RasterError(Code.VRT_REFUSED, f"source_url: the VRT {source.name} names a bad file: {error}") from error
