"""Zipped rasters: one raster in a ZIP archive, unpacked within bounds that the archive's own claims cannot move.

The name that a member has in the archive is never used as a path, so that an archive cannot write outside.
"""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

from core.errors import TransientError
from services.raster.companions import Companion, among, belongs_to_another
from services.raster.errors import Code, RasterError
from services.raster.gdal import MIB, driver_for
from services.raster.source import MAX_DECLARED_BYTES, Source
from services.raster.subdatasets import kind_of

MAX_MEMBERS = 10_000
MAX_RATIO = 200
"""How far a member above ``RATIO_MATTERS_ABOVE`` may expand. DEFLATE reaches 1032 to 1 on nothing but zeros."""
RATIO_MATTERS_ABOVE = 1024 * MIB
MAX_DIRECTORY_BYTES = 4 * MIB
MAX_UNPACKED = MAX_DECLARED_BYTES
_CHUNK = 4 * MIB
_END_BYTES = 65_557 + 1024  # the longest comment, the record before it, and those of ZIP64
_SEE_ZIP64 = 0xFFFFFFFF
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a ZIP archive."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def unpacked(source: Source, directory: Path) -> tuple[Source, list[Companion]]:
    """The one raster in the archive ``source``, and what is beside it there, as files in ``directory``; made once.

    Raises:
        RasterError: ARCHIVE_REFUSED when there is none, more than one, or the archive is not honest.
        TransientError: when there is no space for it.
    """
    _refuse_large_directory(source)
    try:
        with zipfile.ZipFile(source.path) as archive:
            member = _the_raster(archive, source)
            raster = _extracted(archive, member, source, directory / "unpacked")
            name = PurePosixPath(member.filename).name
            beside = [
                Companion(
                    kind,
                    _extracted(archive, archive.getinfo(each), source, directory / f"unpacked.{kind.name.lower()}"),
                    each,
                    f"{archive.getinfo(each).CRC:08x}",
                )
                for kind, each in among(member.filename, archive.NameToInfo.__contains__)
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        raise _refused(source, f"cannot be unpacked: {error}") from error
    return replace(source, path=raster, name=name), beside


def _refused(source: Source, why: str) -> RasterError:
    return RasterError(Code.ARCHIVE_REFUSED, f"source_url: the archive {source.name} {why}")


def _refuse_large_directory(source: Source) -> None:
    """The list of members is read into memory whole; its size is in the last bytes of the archive.

    Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16 and 4.3.14.
    """
    with source.path.open("rb") as file:
        file.seek(max(0, source.path.stat().st_size - _END_BYTES))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _refused(source, "has no end: it was cut short")
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if wide >= 0 and len(tail) >= wide + 48:
        size = max(size if size != _SEE_ZIP64 else 0, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    if size > MAX_DIRECTORY_BYTES:
        raise _refused(source, f"has a list of members of {size} bytes; at most {MAX_DIRECTORY_BYTES} are read")


def _the_raster(archive: zipfile.ZipFile, source: Source) -> zipfile.ZipInfo:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise _refused(source, f"has {len(members)} members; at most {MAX_MEMBERS} are looked through")
    for member in members:
        _refuse_dishonest(member, source)
    names = archive.NameToInfo
    rasters = [
        member
        for member in members
        if not member.is_dir() and not belongs_to_another(member.filename, names) and _is_raster(archive, member)
    ]
    if len(rasters) != 1:
        listed = ", ".join(member.filename[:80] for member in rasters[:5]) or "none"
        raise _refused(source, f"must hold exactly one raster, and holds {len(rasters)}: {listed}")
    return rasters[0]


def _refuse_dishonest(member: zipfile.ZipInfo, source: Source) -> None:
    name = member.filename
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise _refused(source, f"has a member whose name leads out of it: {name[:80]!r}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _refused(source, f"has a symbolic link in it: {name[:80]!r}")
    if member.flag_bits & 0x1:
        raise _refused(source, f"is encrypted ({name[:80]!r})")
    if member.file_size > MAX_UNPACKED or member.file_size > max(RATIO_MATTERS_ABOVE, member.compress_size * MAX_RATIO):
        raise _refused(
            source, f"claims {member.file_size} bytes in {member.compress_size} for {name[:80]!r}; that is no raster"
        )


def _is_raster(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    if member.compress_type not in _METHODS or member.file_size == 0:
        return False
    with archive.open(member) as file:
        head = file.read(1024)
    return driver_for(head) is not None or kind_of(head) is not None


def _refuse_if_full(member: zipfile.ZipInfo, source: Source, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if member.file_size > free:
        raise TransientError(
            f"no space left to unpack {source.name}: {member.file_size // MIB} MiB are needed, {free // MIB} free"
        )


def _extracted(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Source, target: Path) -> Path:
    directory = target.parent
    directory.mkdir(parents=True, exist_ok=True)
    name = PurePosixPath(member.filename).name
    if not target.exists() or target.stat().st_size != member.file_size:
        part = directory / f"{target.name}.part"
        _refuse_if_full(member, source, directory)
        written = 0
        try:
            with archive.open(member) as packed, part.open("wb") as file:
                while chunk := packed.read(_CHUNK):
                    written += len(chunk)
                    if written > member.file_size:
                        raise _refused(source, f"holds more of {name!r} than it says")
                    file.write(chunk)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TransientError(f"no space left to unpack {source.name} ({member.file_size} bytes)") from error
            raise _refused(source, f"cannot be unpacked: {error}") from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.replace(target)
    return target
