"""One tile: its overviews in memory, every level compressed by GDAL, and blocks of each decoded again and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, assert_never

from affine import Affine

from services.raster.cog_options import CogOptions
from services.raster.description import Description, Layout
from services.raster.errors import Code, RasterError
from services.raster.gdal import gdal_errors
from services.raster.nodata import can_occur, differs
from services.raster.parameters import Resampling, Verification
from services.raster.pixels import Pixels
from services.raster.statistics import BandStatistics
from services.raster.tiff_write import Blocks, Directory, Level, read_directories
from services.raster.tile_grid import Box, Place, TileGrid

if TYPE_CHECKING:
    from rasterio.enums import Resampling as Kernel
    from rasterio.io import DatasetReader, DatasetWriter

_ALIGNED = frozenset({Resampling.NEAREST, Resampling.MODE, Resampling.AVERAGE})
_ROWS = 512


def margin_for(resampling: Resampling, levels: int) -> int:
    """Pixels that must be known around a tile so that its overviews fit its neighbours', a multiple of 2**levels.

    Nearest, mode and average look at two by two pixels; the others reach up to three pixels further at every level.
    """
    return 0 if resampling in _ALIGNED or not levels else 8 * 2**levels


@dataclass(frozen=True, slots=True)
class Encoded:
    """The levels of a tile, and the compressed file that holds each."""

    levels: list[Level]
    files: list[memoryview]
    directory: Directory
    mask: Directory | None

    def fetch(self, file: int, offset: int, size: int) -> memoryview:
        """The bytes of a block."""
        return self.files[file][offset : offset + size]


def halvings(pixels: Pixels, core: Box, layout: Layout, how: Resampling, levels: int) -> Iterator[Pixels]:
    """The pixels of ``core`` within ``pixels``, then those of each overview: ``levels`` + 1 in all."""
    yield pixels.part(core)
    for _ in range(levels):
        pixels = _halved(pixels, layout, how)
        core = Box(core.top // 2, core.left // 2, -(-core.height // 2), -(-core.width // 2))
        yield pixels.part(core)


def _halved(pixels: Pixels, layout: Layout, how: Resampling) -> Pixels:
    import numpy as np
    from rasterio.enums import Resampling as Kernel

    values, mask = pixels.values, pixels.mask
    if how is Resampling.NEAREST:
        return Pixels(values[:, ::2, ::2], None if mask is None else mask[::2, ::2])
    height, width = values.shape[1:]
    odd = (height % 2, width % 2)
    if any(odd):
        values = np.pad(values, ((0, 0), (0, odd[0]), (0, odd[1])), mode="edge")
        mask = None if mask is None else np.pad(mask, ((0, odd[0]), (0, odd[1])), mode="edge")
    kernel = Kernel[how.name.lower()]
    smaller = np.empty((len(values), values.shape[1] // 2, values.shape[2] // 2), values.dtype)
    padded = Pixels(values, mask)
    for part in _parts(padded, aligned=how in _ALIGNED):
        top, left = part.top // 2, part.left // 2
        here = smaller[:, top : top + part.height // 2, left : left + part.width // 2]
        here[:] = _resampled(_without_full_mask(padded.part(part)), layout, kernel)
    if how is Resampling.MODE and layout.nodata is not None:
        valid = differs(values, layout.nodata)
        if valid is not None:  # GDAL 3.10 makes zeros of four pixels without data
            smaller[~_any_of_four(valid)] = layout.nodata
    return Pixels(smaller, None if mask is None else _any_of_four(mask))


def _any_of_four(flags: Any) -> Any:
    """Whether any of two by two pixels is set, for half as many rows and columns."""
    either = flags[..., ::2, :] | flags[..., 1::2, :]
    return either[..., ::2] | either[..., 1::2]


def _parts(pixels: Pixels, *, aligned: bool) -> Iterator[Box]:
    """The boxes in which some pixels are halved; in any of them a kernel that looks at two by two pixels (``aligned``)
    gives the same.

    Rows at a time need little memory. With a mask they are cut across as well, as most parts are all valid where the
    pixels together are not; not so with floats, which GDAL adds up in another order where there is a mask.
    """
    height, width = pixels.values.shape[1:]
    masked_floats = pixels.mask is not None and pixels.values.dtype.kind == "f"
    in_parts = aligned and not masked_floats
    rows = _ROWS if in_parts else height
    columns = _ROWS if in_parts and pixels.mask is not None else width
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield Box(top, left, min(rows, height - top), min(columns, width - left))


def _without_full_mask(pixels: Pixels) -> Pixels:
    """GDAL is quicker without a mask, and where it hides nothing the answer is the same."""
    return Pixels(pixels.values, None) if pixels.mask is None or pixels.mask.all() else pixels


def _resampled(pixels: Pixels, layout: Layout, kernel: Kernel) -> Any:
    """Half as many rows and columns of values."""
    count, height, width = pixels.values.shape
    with _in_memory(pixels, layout) as held:
        return held.read(out_shape=(count, height // 2, width // 2), resampling=kernel)


@contextmanager
def _in_memory(pixels: Pixels, layout: Layout) -> Iterator[DatasetReader]:
    """GDAL's own copy of some pixels, with what says which of them are valid."""
    import numpy as np
    import rasterio
    from rasterio.enums import ColorInterp

    count, height, width = pixels.values.shape
    with rasterio.open(
        "",
        "w+",
        driver="MEM",
        width=width,
        height=height,
        count=count,
        dtype=layout.dtype,
        nodata=_nodata(layout),
        transform=Affine(1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    ) as held:
        if layout.alpha is not None:
            held.colorinterp = tuple(
                ColorInterp.alpha if band == layout.alpha else ColorInterp.undefined for band in range(count)
            )
        held.write(pixels.values)
        if pixels.mask is not None:
            held.write_mask(pixels.mask.astype(np.uint8) * 255)
        yield held


def _nodata(layout: Layout) -> float | None:
    """The nodata value, when a pixel can have it."""
    return layout.nodata if layout.nodata is not None and can_occur(layout.nodata, layout.dtype) else None


@contextmanager
def encoded(
    levels: Iterator[Pixels],
    layout: Layout,
    options: CogOptions,
    *,
    blocks: Sequence[int],
    threads: int,
    skip_first: bool = False,
) -> Iterator[Encoded]:
    """Compress each level into a file in memory; they are freed at the end.

    Blocks are decoded again at once, as many as ``options.verification`` says, and with a lossless codec compared with
    what was encoded.

    Args:
        levels: pixels, full resolution first.
        layout: what they are.
        options: the codec.
        blocks: the side of the blocks of each level.
        threads: threads of GDAL's own, for a tile that is alone.
        skip_first: the first level is encoded elsewhere already.

    Raises:
        RasterError: COG_WRITE_FAILED, or COG_INVALID when decoding gives other pixels.
    """
    from rasterio.io import MemoryFile

    made: list[Level] = []
    files: list[memoryview] = []
    directories: list[Directory] = []
    with ExitStack() as stack:
        for number, (pixels, block) in enumerate(zip(levels, blocks, strict=True)):
            if skip_first and number == 0:
                continue
            file = stack.enter_context(MemoryFile(ext=".tif"))
            height, width = pixels.values.shape[1:]
            try:
                creation = replace(options, blocksize=block).block_options()
                _compress(file.name, pixels, layout, {**creation, "NUM_THREADS": threads})
                _compare(file, pixels, _checked(height, width, block, options.verification), lossless=options.lossless)
            except gdal_errors() as error:
                raise RasterError(
                    Code.COG_WRITE_FAILED, f"pixels could not be encoded: {error.__cause__ or error}"
                ) from error
            buffer = file.getbuffer()
            directories = read_directories(buffer)
            mask = Blocks.of(directories[1], len(files)) if layout.masked else None
            made.append(Level(width, height, block, Blocks.of(directories[0], len(files)), mask))
            files.append(buffer)
        yield Encoded(made, files, directories[0], directories[1] if layout.masked else None)


def _compress(name: str, pixels: Pixels, layout: Layout, creation: Mapping[str, Any]) -> None:
    """Write pixels a row of blocks at a time, so that each block is compressed once and never waits in a cache.

    The mask goes first: making its directory frees what GDAL's threads read of blocks that they compress.
    """
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    count, height, width = pixels.values.shape
    rows = max(_ROWS, int(creation["BLOCKYSIZE"]))
    size = {"width": width, "height": height, "count": count, "dtype": layout.dtype}
    with rasterio.open(name, "w", driver="GTiff", **size, **creation) as file:
        for top in range(0, height, rows):
            here = slice(top, min(height, top + rows))
            window = Window(0, top, width, here.stop - top)
            if pixels.mask is not None:
                file.write_mask(pixels.mask[here].astype(np.uint8) * 255, window=window)
            file.write(pixels.values[:, here], window=window)


def _checked(height: int, width: int, block: int, verification: Verification) -> list[Box]:
    """The boxes of a level to decode: all of it, or blocks along its diagonals, which meet every row and column of
    blocks, the first and the last block among them.
    """
    match verification:
        case Verification.EVERY_BLOCK:
            return [Box(top, 0, min(_ROWS, height - top), width) for top in range(0, height, _ROWS)]
        case Verification.SAMPLE:
            grid = TileGrid(width, height, block)
            rows, columns = grid.rows, grid.columns
            diagonals = {Place(step % rows, step % columns) for step in range(max(rows, columns))}
            return [grid.box(place) for place in sorted(diagonals | {Place(rows - 1, columns - 1)})]
        case _:
            assert_never(verification)


def _compare(file: Any, pixels: Pixels, boxes: Sequence[Box], *, lossless: bool) -> None:
    import numpy as np
    from rasterio.windows import Window

    with file.open(driver="GTiff") as decoded:
        for box in boxes:
            window = Window(box.left, box.top, box.width, box.height)
            expected = pixels.part(box)
            back = decoded.read(window=window)
            same = not lossless or all(map(_same_bits, back, expected.values))
            if same and expected.mask is not None:
                same = np.array_equal(decoded.read_masks(1, window=window) > 0, expected.mask)
            if not same:
                raise RasterError(
                    Code.COG_INVALID,
                    f"decoded pixels differ from those encoded in the {box.height} x {box.width} pixels at row "
                    f"{box.top}, column {box.left}",
                )


def _same_bits(one: Any, other: Any) -> bool:
    """Whether two arrays of one type and shape are equal bit by bit, NaNs included; eight bytes at a time."""
    import numpy as np

    flat, given = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    words = flat.size // 8 * 8
    return np.array_equal(flat[:words].view(np.uint64), given[:words].view(np.uint64)) and np.array_equal(
        flat[words:], given[words:]
    )


def template(
    layout: Layout,
    options: CogOptions,
    description: Description | None,
    statistics: Sequence[BandStatistics] = (),
) -> Directory:
    """The main directory of a GeoTIFF of that layout without pixels, as GDAL writes it."""
    from rasterio.io import MemoryFile

    with MemoryFile(ext=".tif") as file:
        with open_template(file.name, layout, options.block_options()) as written:
            if description is not None:
                description.write(written, statistics)
        return read_directories(file.getbuffer())[0]


def open_template(name: str, layout: Layout, creation: Mapping[str, Any]) -> DatasetWriter:
    """A new GeoTIFF of that layout, to be described and left without pixels."""
    import rasterio

    return rasterio.open(
        name,
        "w",
        driver="GTiff",
        width=layout.width,
        height=layout.height,
        count=layout.count,
        dtype=layout.dtype,
        crs=layout.crs,
        transform=layout.transform,
        nodata=_nodata(layout),
        SPARSE_OK=True,
        BIGTIFF="YES",
        **creation,
    )


def mask_directory(options: CogOptions) -> Directory:
    """The directory of a mask, as GDAL writes it."""
    import numpy as np

    side = options.blocksize
    layout = Layout(
        width=side,
        height=side,
        count=1,
        dtype="uint8",
        crs=None,
        transform=Affine.identity(),
        nodata=None,
        masked=True,
        alpha=None,
    )
    pixels = Pixels(np.zeros((1, side, side), np.uint8), np.zeros((side, side), bool))
    plain = options.plain()
    with encoded(iter([pixels]), layout, plain, blocks=[side], threads=1) as made:
        assert made.mask is not None  # noqa: S101 - the layout is masked
        return made.mask
