"""Bands made alike: a GeoTIFF has one type and one nodata value for all of its bands, a VRT one for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from services.raster.errors import Code, RasterError
from services.raster.finding import Finding, FindingCode
from services.raster.findings import fits
from services.raster.source import Source, open_source
from services.raster.wrapping import as_vrt, written

_GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}


def uniform(source: Source, directory: Path) -> Source:
    """``source``, or when its bands differ in type or nodata a VRT around it in which they do not.

    The type is the smallest that holds the values of all bands, the nodata value the first of a band that a pixel can
    have: pixels that have their own band's get it instead.

    Raises:
        RasterError: UNSUPPORTED_DTYPE when no type holds the values of all bands.
    """
    if source.driver != "VRT":
        return source
    with open_source(source) as dataset:
        dtypes, nodata = dataset.dtypes, dataset.nodatavals
        if not set(dtypes) <= set(_GDAL_TYPES):
            return source
        remarks = list(_remarks(dtypes, nodata))
        if not remarks:
            return source
        dtype = _common(dtypes, source.name)
        tree = as_vrt(dataset, source.path)
    shared = next((value for value in nodata if value is not None and fits(value, dtype)), None)
    for band, own in zip(tree.findall("VRTRasterBand"), nodata, strict=True):
        band.set("dataType", _GDAL_TYPES[dtype])
        if shared is not None:
            _set(band, "NoDataValue", shared)
        if own is not None and shared is not None and str(own) != str(shared):
            for simple in band.findall("SimpleSource"):
                simple.tag = "ComplexSource"
                _set(simple, "NODATA", own)
    return replace(source, path=written(tree, directory / "uniform.vrt"), remarks=(*source.remarks, *remarks))


def _remarks(dtypes: Sequence[str], nodata: Sequence[float | None]) -> Iterator[Finding]:
    if len({str(value) for value in nodata}) > 1:
        yield Finding(
            FindingCode.NODATA_DIFFERS,
            f"the bands have different nodata values ({', '.join(map(str, nodata))}); "
            "the output has one for all, the first that fits",
        )
    if len(set(dtypes)) > 1:
        yield Finding(
            FindingCode.MIXED_DTYPES,
            f"the bands have different types ({', '.join(dtypes)}); the output has one that holds all of their values",
        )


def _common(dtypes: Sequence[str], name: str) -> str:
    import numpy as np

    common = np.result_type(*dtypes)
    if common.kind == "f" and any(np.dtype(dtype).kind in "iu" and np.dtype(dtype).itemsize == 8 for dtype in dtypes):
        raise RasterError(
            Code.UNSUPPORTED_DTYPE,
            f"{name} has bands of {', '.join(sorted(set(dtypes)))}, whose values no one type holds; give them apart",
            dtypes=list(dtypes),
        )
    return common.name


def _set(parent: ElementTree.Element, tag: str, value: float) -> None:
    element = parent.find(tag)
    if element is None:
        element = ElementTree.SubElement(parent, tag)
    element.text = repr(value)
