"""Where a TIFF keeps its directory and blocks, so that a file that was cut short is known before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MAX_BLOCKS_LOOKED_UP = 200_000


def first_directory_offset(head: bytes) -> int | None:
    """Byte offset of a TIFF's or BigTIFF's first directory, from its first 16 bytes; None when those are cut short."""
    order = "little" if head[:2] == b"II" else "big"
    big = head[2:4] in {b"+\0", b"\0+"}
    field = head[8:16] if big else head[4:8]
    if len(field) < (8 if big else 4):
        return None
    return int.from_bytes(field, order)  # type: ignore[arg-type]


def block_ranges(dataset: DatasetReader) -> Iterator[tuple[int, int, int, int, int]]:
    """``(band, row, column, offset, size)`` of the blocks of a GTiff dataset; sparse ones are left out.

    Rasters with very many blocks are looked at evenly, the last block always.
    """
    interleaved = str(dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "PIXEL")).upper() == "PIXEL"
    bands = (1,) if interleaved else dataset.indexes
    rows, columns = dataset.block_shapes[0]
    down, across = -(-dataset.height // rows), -(-dataset.width // columns)
    total = down * across
    step = max(1, total * len(bands) // _MAX_BLOCKS_LOOKED_UP)
    for band in bands:
        for number in sorted({*range(0, total, step), total - 1}):
            row, column = divmod(number, across)
            offset = dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band)
            size = dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=band)
            if offset and size:
                yield band, row, column, int(offset), int(size)


def blocks_beyond_end(dataset: DatasetReader, file_size: int) -> int:
    """How many of the blocks looked at end beyond the file's end."""
    return sum(offset + size > file_size for _, _, _, offset, size in block_ranges(dataset))
