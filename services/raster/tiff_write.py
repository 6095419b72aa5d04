"""Puts a Cloud Optimized GeoTIFF together from blocks that are compressed already.

GDAL writes every block and every description; this module moves them. A *template*, a GeoTIFF without pixels that GDAL
wrote with the final size, georeferencing and metadata, gives the main directory; the directories of overviews and
masks follow from it. The layout is that of GDAL's COG driver (https://gdal.org/en/stable/drivers/raster/cog.html):
all directories first, then the blocks of the smallest overview up to those of full resolution, each between its size
and its last four bytes, a mask's block right after its image's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Offsets = npt.NDArray[np.uint64]

SUBFILE, WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 254, 256, 257, 322, 323, 324, 325
PHOTOMETRIC, JPEG_TABLES, CHROMA = 262, 347, (529, 530, 531, 532)
_REDUCED, _MASK = 1, 4
_OF_MAIN_ALONE = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 42112, 33550, 33922, 34264})
_GEO_KEYS = frozenset({34735, 34736, 34737})
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SHORT, _LONG, _LONG8 = 3, 4, 16
_CLASSIC_LIMIT = 2**32 - 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag of a directory: its value as little-endian bytes."""

    kind: int
    count: int
    value: bytes

    def numbers(self) -> list[int]:
        """The value of an integer tag."""
        form = {1: "B", _SHORT: "H", _LONG: "I", _LONG8: "Q"}[self.kind]
        return list(struct.unpack(f"<{self.count}{form}", self.value))


Directory = Mapping[int, Entry]


def read_directories(file: bytes | memoryview) -> list[Directory]:
    """The directories of a little-endian TIFF or BigTIFF, in the order of the file.

    Raises:
        ValueError: when it is no such file.
    """
    if bytes(file[:2]) != b"II":
        raise ValueError("not a little-endian TIFF")
    big = struct.unpack_from("<H", file, 2)[0] == 43
    head, entry, inline, pointer = ("<Q", "<HHQ8s", 8, "<Q") if big else ("<H", "<HHI4s", 4, "<I")
    (at,) = struct.unpack_from(pointer, file, 8 if big else 4)
    found: list[Directory] = []
    while at:
        (count,) = struct.unpack_from(head, file, at)
        at += struct.calcsize(head)
        directory: dict[int, Entry] = {}
        for number in range(count):
            tag, kind, length, raw = struct.unpack_from(entry, file, at + number * struct.calcsize(entry))
            size = _SIZES[kind] * length
            if size > inline:
                (place,) = struct.unpack(pointer, raw)
                raw = bytes(file[place : place + size])
            directory[tag] = Entry(kind, length, raw[:size])
        found.append(directory)
        (at,) = struct.unpack_from(pointer, file, at + count * struct.calcsize(entry))
    return found


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where the compressed blocks of one image are: file number, offset and size of each, row by row; size 0: none."""

    files: npt.NDArray[np.int32]
    offsets: Offsets
    sizes: Offsets

    @classmethod
    def of(cls, directory: Directory, file: int = 0) -> Blocks:
        """The blocks of a directory of the file with that number."""
        import numpy as np

        offsets = np.array(directory[TILE_OFFSETS].numbers(), dtype=np.uint64)
        sizes = np.array(directory[TILE_COUNTS].numbers(), dtype=np.uint64)
        return cls(np.full(len(offsets), file, dtype=np.int32), offsets, sizes)

    @classmethod
    def none(cls, count: int) -> Blocks:
        """``count`` blocks without content."""
        import numpy as np

        return cls(np.zeros(count, np.int32), np.zeros(count, np.uint64), np.zeros(count, np.uint64))


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a COG, full resolution first: its size and that of its blocks in pixels, its blocks and those
    of its mask.
    """

    width: int
    height: int
    block: int
    image: Blocks
    mask: Blocks | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written: its size in bytes and SHA-256."""

    size: int
    sha256: str


Fetch = Callable[[int, int, int], "bytes | memoryview"]
"""``fetch(file, offset, size)`` gives the bytes of a block."""


def write_cog(
    path: Path, main: Directory, levels: Sequence[Level], fetch: Fetch, *, mask: Directory | None = None
) -> Written:
    """Write the COG whose main directory is ``main`` (of a template) to ``path``.

    Args:
        path: where to write; an existing file is replaced.
        main: the main directory; its size must be that of the first level.
        levels: full resolution and overviews, each about half the one before.
        fetch: gives compressed blocks.
        mask: the directory of any mask that GDAL wrote with the same block size, when the levels have masks.
    """
    plan = _plan(main, levels, mask)
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for chunk in chain(_front(plan), _contents(plan, fetch)):
            digest.update(chunk)
            size += file.write(chunk)
    return Written(size, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class _Place:
    """The blocks of one image, and where they begin in the new file."""

    blocks: Blocks
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where everything goes: each directory, where it starts, and the places of its blocks.

    ``images`` is how many directories each level has: one, or two with a mask.
    """

    big: bool
    ghost: bytes
    images: int
    directories: Sequence[Directory]
    starts: Sequence[int]
    places: Sequence[_Place]


def _plan(main: Directory, levels: Sequence[Level], mask: Directory | None) -> _Plan:
    directories, blocks = zip(*_directories(main, levels, mask), strict=True)
    content = sum(int(one.sizes.sum()) + 8 * len(one.sizes) for one in blocks)
    tables = sum(_directory_size(directory, big=True) for directory in directories)
    big = content + tables > _CLASSIC_LIMIT
    ghost = _ghost(masked=mask is not None)
    at = _even((16 if big else 8) + len(ghost))
    starts: list[int] = []
    for directory in directories:
        starts.append(at)
        at += _directory_size(directory, big=big)
    images = 1 if mask is None else 2
    return _Plan(big, ghost, images, directories, starts, _placed(blocks, images, at))


def _directories(
    main: Directory, levels: Sequence[Level], mask: Directory | None
) -> Iterator[tuple[Directory, Blocks]]:
    for number, level in enumerate(levels):
        kept = main if number == 0 else {tag: e for tag, e in main.items() if tag not in _OF_MAIN_ALONE | _GEO_KEYS}
        yield _sized(kept, level, level.image, _REDUCED if number else 0)
        if mask is not None:
            assert level.mask is not None  # noqa: S101 - the caller's levels agree
            yield _sized(mask, level, level.mask, _MASK | (_REDUCED if number else 0))


def _sized(directory: Directory, level: Level, blocks: Blocks, subfile: int) -> tuple[Directory, Blocks]:
    sized = dict(directory)
    if subfile:
        sized[SUBFILE] = _long(subfile)
    sized[WIDTH], sized[HEIGHT] = _long(level.width), _long(level.height)
    sized[TILE_WIDTH] = sized[TILE_HEIGHT] = Entry(_SHORT, 1, struct.pack("<H", level.block))
    count = len(blocks.offsets)
    sized[TILE_OFFSETS] = Entry(_LONG8, count, b"")
    sized[TILE_COUNTS] = Entry(_LONG, count, blocks.sizes.astype("<u4").tobytes())
    return sized, blocks


def _long(value: int) -> Entry:
    return Entry(_LONG, 1, struct.pack("<I", value))


def _even(number: int) -> int:
    return number + number % 2


def _value_size(tag: int, entry: Entry, *, big: bool) -> int:
    return entry.count * (8 if big else 4) if tag == TILE_OFFSETS else len(entry.value)


def _directory_size(directory: Directory, *, big: bool) -> int:
    fixed = 8 + 20 * len(directory) + 8 if big else 2 + 12 * len(directory) + 4
    inline = 8 if big else 4
    values = (_value_size(tag, entry, big=big) for tag, entry in directory.items())
    return fixed + fixed % 2 + sum(_even(size) for size in values if size > inline)


def _placed(blocks: Sequence[Blocks], images: int, at: int) -> list[_Place]:
    """Every block's offset: smallest level first, a mask's block right after its image's."""
    import numpy as np

    places: dict[int, _Place] = {}
    for number in reversed(range(0, len(blocks), images)):
        parts = blocks[number : number + images]
        sizes = np.stack([part.sizes for part in parts], axis=1).astype(np.int64)
        room = np.where(sizes > 0, sizes + 8, 0).ravel()
        starts = (at + np.concatenate([[0], np.cumsum(room)[:-1]])).reshape(sizes.shape)
        for column, part in enumerate(parts):
            offsets = np.where(sizes[:, column] > 0, starts[:, column] + 4, 0)
            places[number + column] = _Place(part, offsets.astype(np.uint64))
        at += int(room.sum())
    return [places[number] for number in range(len(blocks))]


def _front(plan: _Plan) -> Iterator[bytes]:
    """Header, structural metadata and directories."""
    first = plan.starts[0]
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if plan.big else struct.pack("<2sHI", b"II", 42, first)
    yield (header + plan.ghost).ljust(first, b"\0")
    for number, (directory, place) in enumerate(zip(plan.directories, plan.places, strict=True)):
        following = plan.starts[number + 1] if number + 1 < len(plan.starts) else 0
        offsets = Entry(
            _LONG8 if plan.big else _LONG,
            len(place.offsets),
            place.offsets.astype("<u8" if plan.big else "<u4").tobytes(),
        )
        yield _directory_bytes({**directory, TILE_OFFSETS: offsets}, plan.starts[number], following, big=plan.big)


def _contents(plan: _Plan, fetch: Fetch) -> Iterator[bytes | memoryview]:
    """The blocks, smallest level first."""
    for number in reversed(range(0, len(plan.places), plan.images)):
        parts = [place.blocks for place in plan.places[number : number + plan.images]]
        for block in range(len(parts[0].sizes)):
            for blocks in parts:
                if size := int(blocks.sizes[block]):
                    content = fetch(int(blocks.files[block]), int(blocks.offsets[block]), size)
                    yield struct.pack("<I", size)
                    yield content
                    yield bytes(content[-4:]).rjust(4, b"\0")


def _directory_bytes(directory: Directory, at: int, following: int, *, big: bool) -> bytes:
    inline = 8 if big else 4
    fixed = 8 + 20 * len(directory) + 8 if big else 2 + 12 * len(directory) + 4
    fixed += fixed % 2
    table = struct.pack("<Q" if big else "<H", len(directory))
    values = b""
    for tag, entry in sorted(directory.items()):
        value = entry.value
        if len(value) > inline:
            pointer = struct.pack("<Q" if big else "<I", at + fixed + len(values))
            values += value + b"\0" * (len(value) % 2)
        else:
            pointer = value.ljust(inline, b"\0")
        table += struct.pack("<HHQ" if big else "<HHI", tag, entry.kind, entry.count) + pointer
    table += struct.pack("<Q" if big else "<I", following)
    return table.ljust(fixed, b"\0") + values


def _ghost(*, masked: bool) -> bytes:
    """The structural metadata between header and first directory, which lets GDAL read a block in one request."""
    text = (
        "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
        "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
    )
    if masked:
        text += "MASK_INTERLEAVED_WITH_IMAGERY=YES\n"
    return f"GDAL_STRUCTURAL_METADATA_SIZE={len(text):06d} bytes\n{text}".encode("ascii")


def with_codec_tags(main: Directory, encoded: Directory) -> Directory:
    """``main`` with what a JPEG codec wrote into the directory of an encoded image: tables, colours and chroma."""
    kept = {tag: entry for tag, entry in encoded.items() if tag in {JPEG_TABLES, PHOTOMETRIC, *CHROMA}}
    return {**main, **kept} if JPEG_TABLES in encoded else main
