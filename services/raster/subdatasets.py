"""Variables of netCDF and HDF5 files, written out as GeoTIFFs before anything else reads them.

An HDF5 file can take its values from other files (external storage, external links, virtual datasets). That is looked
for first, with a library that follows none of it, and refused.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import TransientError
from services.raster.errors import Code, RasterError
from services.raster.gdal import MIB, gdal_errors, gdal_messages, judged_here
from services.raster.source import Source, check_claims, declared_bytes

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MAX_OBJECTS = 100_000
_SHOWN = 30
_BOUNDS = ("_bnds", "_bounds")
"""How the names of the tables end that hold the edges of a coordinate's cells. Source: CF conventions, 7.1."""


class Kind(StrEnum):
    """Families of files with variables."""

    NETCDF = "netCDF"
    HDF5 = "HDF5"
    HDF4 = "HDF4"


_MAGIC = (
    (b"CDF\x01", Kind.NETCDF),
    (b"CDF\x02", Kind.NETCDF),
    (b"CDF\x05", Kind.NETCDF),
    (b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (b"\x0e\x03\x13\x01", Kind.HDF4),
)
_DRIVERS: dict[Kind, tuple[str, ...]] = {
    Kind.NETCDF: ("netCDF",),
    Kind.HDF5: ("netCDF", "HDF5"),
    Kind.HDF4: ("HDF4",),
}


def kind_of(head: bytes) -> Kind | None:
    """The family of a file that begins with ``head``."""
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def written_out(source: Source, kind: Kind, subdataset: str | None, directory: Path) -> Source:
    """The variable ``subdataset`` of ``source``, as a GeoTIFF in ``directory``; made once.

    The only variable that is a raster need not be named.

    Raises:
        RasterError: DRIVER_MISSING, SUBDATASET_NOT_FOUND with the names that there are, or why it cannot be read.
        TransientError: when there is no space for it.
    """
    drivers = _present(kind, source)
    if kind is Kind.HDF5:
        _refuse_references(source)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "variable.tif"
    name = f"{source.stem}.tif" if subdataset is None else f"{source.stem}_{_leaf(subdataset)}.tif"
    written = replace(source, path=target, name=name)
    if target.exists():
        return written
    plain = directory / "variables"  # its path goes into GDAL's names of variables, where quotes would matter
    plain.unlink(missing_ok=True)
    plain.symlink_to(source.path)
    _write(_chosen(plain, drivers, subdataset, source), source, target)
    return written


def _present(kind: Kind, source: Source) -> tuple[str, ...]:
    registered = registered_drivers()
    present = tuple(driver for driver in _DRIVERS[kind] if driver in registered)
    if not present:
        raise RasterError(
            Code.DRIVER_MISSING,
            f"source_url: {source.name} is an {kind} file; "
            f"this worker's GDAL has no {' or '.join(_DRIVERS[kind])} driver",
            driver=_DRIVERS[kind][0],
        )
    return present


def registered_drivers() -> frozenset[str]:
    """The names of the drivers that this GDAL has."""
    import rasterio

    with rasterio.Env() as env:
        return frozenset(env.drivers())


def _refuse_references(source: Source) -> None:
    import h5py

    def refuse(what: str, name: str) -> RasterError:
        return RasterError(
            Code.FORMAT_NOT_ALLOWED,
            f"source_url: {source.name} takes {name[:80]!r} from another file ({what}); "
            "give a file that is complete in itself",
        )

    seen: set[int] = set()
    try:
        with h5py.File(source.path, "r") as file:
            waiting = [file["/"]]
            while waiting:
                group = waiting.pop()
                for name in group:
                    link = group.get(name, getlink=True)
                    if isinstance(link, h5py.ExternalLink):
                        raise refuse("an external link", name)
                    if isinstance(link, h5py.SoftLink):
                        continue
                    entry = group[name]
                    address = h5py.h5o.get_info(entry.id).addr
                    if address in seen:
                        continue
                    seen.add(address)
                    if len(seen) > _MAX_OBJECTS:
                        raise RasterError(
                            Code.FORMAT_NOT_ALLOWED, f"{source.name} has more than {_MAX_OBJECTS} objects in it"
                        )
                    if isinstance(entry, h5py.Group):
                        waiting.append(entry)
                    elif isinstance(entry, h5py.Dataset):
                        if entry.external:
                            raise refuse("external storage", name)
                        if entry.is_virtual:
                            raise refuse("a virtual dataset", name)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise RasterError(Code.CORRUPT_DATA, f"{source.name} begins as HDF5 but cannot be read: {error}") from error


def _chosen(plain: Path, drivers: tuple[str, ...], subdataset: str | None, source: Source) -> tuple[str, str]:
    """GDAL's name of the variable, and the driver that opens it."""
    import rasterio

    found: dict[str, tuple[str, str]] = {}
    alone: tuple[str, str] | None = None
    reasons: list[str] = []
    for driver in drivers:
        try:
            with judged_here(), rasterio.open(plain, driver=driver) as dataset:
                names = {_variable(name): (name, driver) for name in dataset.subdatasets}
                if not names and dataset.count and not found:
                    names = {_only_variable(dataset): (str(plain), driver)}
                if not found:  # the HDF5 driver, which comes second, counts every table as a raster
                    fields = [name for name in names if not name.endswith(_BOUNDS)] or list(names)
                    alone = names[fields[0]] if len(fields) == 1 else None
                found = names | found
        except gdal_errors() as error:
            reasons.append(str(error.__cause__ or error))
    if not found:
        raise RasterError(
            Code.CORRUPT_DATA if reasons else Code.NO_BANDS,
            f"{source.name} has no variable that is a raster{': ' + '; '.join(reasons) if reasons else ''}",
        )
    if subdataset is None and alone is not None:
        return alone
    if subdataset is not None and (match := _match(subdataset, found)) is not None:
        return found[match]
    shown = ", ".join(sorted(found)[:_SHOWN])
    wanted = "name one of its variables" if subdataset is None else f"it has no variable {subdataset[:80]!r}"
    raise RasterError(
        Code.SUBDATASET_NOT_FOUND, f"subdataset: {source.name}: {wanted}: {shown}", available=sorted(found)[:_SHOWN]
    )


def _variable(name: str) -> str:
    """``NETCDF:"path":group/variable`` -> ``group/variable``."""
    return name.rsplit('":', 1)[-1].rsplit("variables:", 1)[-1].lstrip("/")


def _leaf(variable: str) -> str:
    return variable.rsplit("/", 1)[-1]


def _only_variable(dataset: DatasetReader) -> str:
    return str(dataset.tags(1).get("NETCDF_VARNAME", "data"))


def _match(wanted: str, found: dict[str, tuple[str, str]]) -> str | None:
    wanted = wanted.lstrip("/")
    if wanted in found:
        return wanted
    leaves = [variable for variable in found if _leaf(variable) == wanted]
    return leaves[0] if len(leaves) == 1 else None


def _write(chosen: tuple[str, str], source: Source, target: Path) -> None:
    import rasterio
    from rasterio.shutil import copy

    name, driver = chosen
    part = target.with_name("variable.part.tif")
    opened_by = "HDF5Image" if driver == "HDF5" and name.startswith("HDF5:") else driver
    try:
        with judged_here(), gdal_messages(), rasterio.open(name, driver=opened_by) as dataset:
            check_claims(dataset, source.name, source.size)
            _refuse_if_full(dataset, source, target)
            copy(dataset, part, driver="GTiff", tiled="YES", compress="ZSTD", zstd_level="1", bigtiff="IF_SAFER")
        part.replace(target)
    except gdal_errors() as error:
        raise RasterError(
            Code.CORRUPT_DATA,
            f"{source.name}: its variable {_variable(name)!r} cannot be read: {error.__cause__ or error}",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _refuse_if_full(dataset: DatasetReader, source: Source, target: Path) -> None:
    needed = declared_bytes(dataset)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise TransientError(
            f"no space left to write out {source.name}: {needed // MIB} MiB are needed, {free // MIB} free"
        )
