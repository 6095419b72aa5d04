"""Grids as files: Parquet, GeoParquet 1.1, CSV and GeoJSON, written chunk by chunk whatever the size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, assert_never

import numpy as np
import shapely
from numpy.typing import NDArray

from services.h3 import bits, geodesy
from services.h3.bits import Cells
from services.h3.parameters import ExportFormat

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {
    ExportFormat.PARQUET: ".parquet",
    ExportFormat.GEOPARQUET: ".geo.parquet",
    ExportFormat.CSV: ".csv",
    ExportFormat.GEOJSON: ".geojson",
}
MEDIA_TYPES = {
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
    ExportFormat.GEOPARQUET: "application/vnd.apache.parquet",
    ExportFormat.CSV: "text/csv",
    ExportFormat.GEOJSON: "application/geo+json",
}

_CHUNK = 50_000
_HEX = np.frombuffer(b"0123456789abcdef", dtype="S1")


def write(kind: ExportFormat, path: Path, chunks: Iterable[Cells], resolution: int) -> int:
    """Write the cells of one resolution and return how many; the file appears only when it is whole.

    Columns (properties): ``h3`` (the id as text), ``h3_int``, ``parent`` (text, empty at resolution 0), ``resolution``;
    in GeoParquet and GeoJSON the polygon, cut at the antimeridian.
    """
    pieces = _small(chunks)
    match kind:
        case ExportFormat.PARQUET:
            return _parquet(path, pieces, resolution, polygons=False)
        case ExportFormat.GEOPARQUET:
            return _parquet(path, pieces, resolution, polygons=True)
        case ExportFormat.CSV:
            return _csv(path, pieces, resolution)
        case ExportFormat.GEOJSON:
            return _geojson(path, pieces, resolution)
        case _:
            assert_never(kind)


def ids(cells: Cells) -> NDArray[np.bytes_]:
    """The cells' ids as text: 15 hexadecimal digits."""
    octets = cells.astype(">i8").view(np.uint8).reshape(-1, 8)
    digits = np.stack([_HEX[octets >> 4], _HEX[octets & 15]], axis=2).reshape(-1, 16)
    return np.ascontiguousarray(digits[:, 1:]).view("S15").reshape(-1)


def _small(chunks: Iterable[Cells]) -> Iterator[Cells]:
    for cells in chunks:
        for start in range(0, len(cells), _CHUNK):
            yield cells[start : start + _CHUNK]


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name, put in place once all is written and on disk."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _shapes(cells: Cells, resolution: int) -> NDArray[np.object_]:
    shapes: NDArray[np.object_] = shapely.orient_polygons(geodesy.polygons(cells, resolution))
    return shapes


def _columns(cells: Cells, resolution: int) -> dict[str, Any]:
    parents = ids(bits.parents(cells, resolution - 1)) if resolution else np.full(len(cells), b"", dtype="S15")
    return {
        "h3": ids(cells).astype("U15"),
        "h3_int": cells,
        "parent": parents.astype("U15"),
        "resolution": np.full(len(cells), resolution, dtype=np.int16),
    }


def _table(cells: Cells, resolution: int) -> pa.Table:
    import pyarrow as pa

    return pa.table(_columns(cells, resolution))


def _parquet(path: Path, chunks: Iterable[Cells], resolution: int, *, polygons: bool) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("h3", pa.string()), ("h3_int", pa.int64()), ("parent", pa.string()), ("resolution", pa.int16())]
    schema = pa.schema([*fields, *([("geometry", pa.binary())] if polygons else [])])
    if polygons:
        schema = schema.with_metadata({"geo": json.dumps(_GEO_METADATA)})
    written = 0
    with _whole_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for cells in chunks:
            table = _table(cells, resolution)
            if polygons:
                wkb = shapely.to_wkb(_shapes(cells, resolution), byte_order=1)
                table = table.append_column("geometry", pa.array(wkb, pa.binary()))
            writer.write_table(table.cast(schema))
            written += len(cells)
    return written


_GEO_METADATA = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["Polygon", "MultiPolygon"],
            "orientation": "counterclockwise",
            "edges": "planar",
        }
    },
}


def _csv(path: Path, chunks: Iterable[Cells], resolution: int) -> int:
    import pyarrow.csv as pc

    written = 0
    schema = _table(np.empty(0, dtype=np.int64), resolution).schema
    options = pc.WriteOptions(quoting_style="none")
    with _whole_file(path) as file, pc.CSVWriter(file, schema, write_options=options) as writer:
        for cells in chunks:
            writer.write_table(_table(cells, resolution))
            written += len(cells)
    return written


def _geojson(path: Path, chunks: Iterable[Cells], resolution: int) -> int:
    written = 0
    with _whole_file(path) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for cells in chunks:
            columns = _columns(cells, resolution)
            features = [
                f'{{"type":"Feature","id":"{cell}","properties":{{"h3":"{cell}","parent":"{parent}","resolution":{resolution}}},'
                f'"geometry":{shape}}}'
                for cell, parent, shape in zip(
                    columns["h3"], columns["parent"], shapely.to_geojson(_shapes(cells, resolution)), strict=True
                )
            ]
            file.write((",\n" if written else "\n").encode() + ",\n".join(features).encode())
            written += len(cells)
        file.write(b"\n]}\n")
    return written
