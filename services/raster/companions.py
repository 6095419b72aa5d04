"""Files beside a raster that belong to it: its mask, GDAL's description of it, and its world file.

GDAL would open whatever such a file is or names, so it is never left to find them. They are read here, within bounds,
and what they say is put into a VRT around the raster. Of two that say the same thing, that counts which GDAL takes.
Sources: https://gdal.org/en/stable/drivers/raster/gtiff.html (georeferencing, nodata mask),
https://gdal.org/en/stable/drivers/raster/wld.html.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from core.errors import InvalidInput, PermanentError
from core.storage import Storage
from services.raster.errors import Code, RasterError, Refuser
from services.raster.finding import Finding, FindingCode
from services.raster.gdal import driver_for, of_one_format
from services.raster.pam import finite_numbers, set_transform, take_description
from services.raster.safe_xml import parsed, read_bounded
from services.raster.source import Source, first_bytes, readable_file
from services.raster.validation import open_whole
from services.raster.wrapping import as_vrt, name_source, written

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

MAX_WORLD_FILE_BYTES = 10_000
_PER_DATASET = 2  # GMF_PER_DATASET


class Kind(StrEnum):
    """What a file beside a raster is."""

    DESCRIPTION = "description"
    WORLD_FILE = "world file"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class Companion:
    """A file beside a raster, at ``path``; messages call it by ``name``, and ``version`` changes with its content."""

    kind: Kind
    path: Path
    name: str
    version: str


def _names_beside(name: str) -> Mapping[Kind, Sequence[str]]:
    """What the files beside the raster ``name`` are called; of several of a kind the first one counts."""
    stem, dot, ending = name.rpartition(".")
    endings = [ending[0] + ending[-1] + "w", ending + "w"] if dot and ending else []
    worlds = [each for known in [*endings, "wld"] for each in (known.lower(), known.upper())]
    return {
        Kind.DESCRIPTION: [f"{name}.aux.xml"],
        Kind.WORLD_FILE: [f"{stem if dot else name}.{each}" for each in worlds],
        Kind.MASK: [f"{name}.msk", f"{name}.MSK"],
    }


def among(name: str, present: Callable[[str], bool]) -> Iterator[tuple[Kind, str]]:
    """The names of the files beside the raster ``name`` that are ``present``, one of each kind at most."""
    for kind, names in _names_beside(name).items():
        found = next(filter(present, names), None)
        if found is not None:
            yield kind, found


def belongs_to_another(name: str, names: Iterable[str]) -> bool:
    """Whether ``name`` is the mask or the overviews of another of ``names``."""
    raster, _, ending = name.rpartition(".")
    return ending.lower() in {"msk", "ovr"} and raster in names


def found_beside(path: Path, storage: Storage, *, field: str) -> list[Companion]:
    """The files beside the raster at ``path``.

    Raises:
        StorageRefused: when one is a link to where sources may not be read.
    """
    found = []
    for kind, name in among(path.name, lambda each: os.path.isfile(path.parent / each)):
        readable = storage.readable(path.parent / name, field=field)
        found.append(Companion(kind, readable, name, Source.of_file(readable).version))
    return found


def joined(source: Source, found: Sequence[Companion], directory: Path) -> Source:
    """``source`` as a VRT in ``directory`` with what the files ``found`` say, or itself when they say nothing new.

    Raises:
        RasterError: SIDECAR_REFUSED when one of them cannot be read; or why the raster itself is not.
    """
    if not found:
        return source
    if not of_one_format(first_bytes(source.path)):
        raise RasterError(
            Code.FORMAT_NOT_ALLOWED,
            f"source_url: {source.name} is two things at once, and is not read together with {found[0].name}",
        )
    with open_whole(source) as dataset:
        tree = as_vrt(dataset, source.path)
        used = [each for each in found if _READ[each.kind](each, source, dataset, tree)]
        driver = dataset.driver
    remarks = list(_remarks(found, used))
    if not used:
        return replace(source, remarks=(*source.remarks, *remarks))
    return replace(
        source,
        path=written(tree, directory / "joined.vrt"),
        driver="VRT",
        format=driver,
        file_bytes=source.size + sum(each.path.stat().st_size for each in used if each.kind is Kind.MASK),
        version="|".join([source.version, *(f"{each.name}|{each.version}" for each in used)]),
        remarks=(*source.remarks, *remarks),
    )


def _remarks(found: Sequence[Companion], used: Sequence[Companion]) -> Iterator[Finding]:
    if used:
        names = ", ".join(each.name for each in used)
        yield Finding(FindingCode.SIDECAR_READ, f"described by files beside it: {names}")
    for each in found:
        if each.kind is Kind.MASK and each not in used:
            yield Finding(
                FindingCode.SIDECAR_IGNORED,
                f"{each.name} is not used: the raster has a mask of its own, or this is none of all its bands",
            )


def _refuser(companion: Companion, source: Source) -> Refuser:
    return lambda why: RasterError(
        Code.SIDECAR_REFUSED,
        f"source_url: {companion.name}, the {companion.kind} beside {source.name}, {why}; mend it or take it away",
    )


def _read_mask(companion: Companion, source: Source, dataset: DatasetReader, tree: ElementTree.Element) -> bool:
    refused = _refuser(companion, source)
    try:
        readable_file(companion.path)
        head = first_bytes(companion.path)
        if driver_for(head) != "GTiff" or not of_one_format(head):
            raise refused("is no TIFF")
        with open_whole(replace(Source.of_file(companion.path), name=companion.name, driver="GTiff")) as mask:
            shape, flags = (mask.height, mask.width), mask.tags().get("INTERNAL_MASK_FLAGS_1", "")
            if mask.dtypes[0] != "uint8":
                raise refused(f"has pixels of type {mask.dtypes[0]}, where uint8 is expected")
    except (PermanentError, InvalidInput) as error:
        if getattr(error, "code", None) == Code.SIDECAR_REFUSED:
            raise
        raise refused(f"cannot be read: {error}") from error
    if shape != (dataset.height, dataset.width):
        raise refused(f"is {shape[1]} x {shape[0]} pixels, and the raster {dataset.width} x {dataset.height}")
    for_all_bands = flags.isdecimal() and (int(flags) & _PER_DATASET or dataset.count == 1)
    if not for_all_bands or tree.find("MaskBand") is not None:
        return False
    band = ElementTree.SubElement(ElementTree.SubElement(tree, "MaskBand"), "VRTRasterBand", {"dataType": "Byte"})
    simple = ElementTree.SubElement(band, "SimpleSource")
    name_source(ElementTree.SubElement(simple, "SourceFilename"), companion.path)
    ElementTree.SubElement(simple, "SourceBand").text = "1"
    return True


def _read_world_file(companion: Companion, source: Source, _: DatasetReader, tree: ElementTree.Element) -> bool:
    if tree.find("GeoTransform") is not None or tree.find("GCPList") is not None:
        return False
    refused = _refuser(companion, source)
    content = read_bounded(companion.path, MAX_WORLD_FILE_BYTES, refused)
    lines = [line.split()[0] for line in content.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    across, skew_y, skew_x, down, x, y = finite_numbers(lines[:6], 6, refused)
    if across * down == skew_x * skew_y:
        raise refused("gives pixels no extent")
    # It names the centre of the first pixel.
    left, top = x - (across + skew_x) / 2, y - (skew_y + down) / 2
    set_transform(tree, [left, across, skew_x, top, skew_y, down])
    return True


def _read_description(companion: Companion, source: Source, _: DatasetReader, tree: ElementTree.Element) -> bool:
    refused = _refuser(companion, source)
    return take_description(parsed(companion.path, "PAMDataset", refused), tree, refused)


_READ: Mapping[Kind, Callable[[Companion, Source, DatasetReader, ElementTree.Element], bool]] = {
    Kind.DESCRIPTION: _read_description,
    Kind.WORLD_FILE: _read_world_file,
    Kind.MASK: _read_mask,
}
