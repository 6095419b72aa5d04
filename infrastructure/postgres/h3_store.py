"""H3 grids on PostgreSQL: each grid's cells in a partition of their own, saved batch by batch, exactly once.

Cells are loaded by binary COPY into a table without indexes, in the order of their ids, one transaction a batch
together with the record that the batch is done. :meth:`PostgresGridStore.publish` checks them against those records,
builds the primary key (at once a proof that no cell is there twice) and attaches the table to ``h3.cells``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from core.errors import StoreUnavailable
from infrastructure.postgres.copy_binary import copy_rows
from infrastructure.postgres.database import Connection, Database
from infrastructure.postgres.jsonb import jsonb
from infrastructure.postgres.queries import queries
from services.h3.grid import Grid, GridSpec, Tally
from services.h3.ports import BatchId, CellStatistics, GridConflict, GridInconsistent, differing

if TYPE_CHECKING:
    from services.h3.bits import Cells

_PAGE_ROWS = 100_000
_CELL = 1 << 59  # the mode bits of a cell's index
_RESOLUTION_SHIFT = 52
_STATISTICS = (
    ("h3", ">i8"),
    ("count", ">i8"),
    ("weight", ">f8"),
    ("sum", ">f8"),
    ("mean", ">f8"),
    ("min", ">f8"),
    ("max", ">f8"),
    ("mode", ">f8"),
)


class PostgresGridStore:
    """The GridStore port on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._queries = queries("h3")

    def begin(self, spec: GridSpec, *, replace: bool = False) -> Grid:
        def work(connection: Connection) -> Grid:
            with connection.transaction():
                known = connection.execute(self._queries["get_grid"], {"grid_id": spec.grid_id}).fetchone()
                if known is not None and replace and _grid(known).spec.fingerprint != spec.fingerprint:
                    self._delete(connection, known["grid_key"])
                made = connection.execute(
                    self._queries["insert_grid"],
                    {
                        "grid_id": spec.grid_id,
                        "fingerprint": spec.fingerprint,
                        "definition": jsonb(dict(spec.definition)),
                        "boundary": spec.boundary,
                    },
                ).fetchone()
                if made is not None:
                    _create_table(connection, made["grid_key"])
                    return _grid(made)
                found = connection.execute(self._queries["get_grid"], {"grid_id": spec.grid_id}).fetchone()
            if found is None:
                raise StoreUnavailable(f"grid {spec.grid_id!r} was made and removed at the same time")
            grid = _grid(found)
            if grid.spec.fingerprint != spec.fingerprint:
                raise GridConflict(spec.grid_id, differing(grid.spec, spec))
            return grid

        return self._db.run(work)

    def get(self, grid_id: str) -> Grid | None:
        row = self._db.row(self._queries["get_grid"], {"grid_id": grid_id})
        return _grid(row) if row else None

    def grids(self) -> Sequence[Grid]:
        return [_grid(row) for row in self._db.rows(self._queries["list_grids"])]

    def batches(self, grid: Grid, resolution: int) -> Mapping[int, Tally]:
        found = self._db.rows(self._queries["batches"], {"grid_key": grid.key, "resolution": resolution})
        return {row["batch"]: Tally(row["cells"], row["cells_xor"]) for row in found}

    def save_batch(self, grid: Grid, batch: BatchId, rows: Callable[[], Iterable[Cells]]) -> Tally:
        named = {"grid_key": grid.key, "resolution": batch.resolution, "batch": batch.number}

        def work(connection: Connection) -> Tally:
            with connection.transaction():
                # Another worker on the same batch is waited for here, and then found to have done it.
                if connection.execute(self._queries["claim_batch"], named).fetchone() is None:
                    known = connection.execute(self._queries["batch"], named).fetchone()
                    if known is None:
                        raise GridInconsistent(grid.spec.grid_id, {"not building": [batch.resolution, batch.number]})
                    return Tally(known["cells"], known["cells_xor"])
                tally = _copy_cells(connection, grid.key, batch.resolution, rows())
                connection.execute(
                    self._queries["finish_batch"], {**named, "cells": tally.cells, "cells_xor": tally.xor}
                )
                return tally

        return self._db.run(work)

    def publish(self, grid: Grid, summary: Mapping[str, Any]) -> Grid:
        def work(connection: Connection) -> Grid:
            with connection.transaction():
                row = connection.execute(self._queries["lock_grid"], {"grid_key": grid.key}).fetchone()
                if row is None:
                    raise GridInconsistent(grid.spec.grid_id, {"missing": "the grid was deleted"})
                if row["status"] == "complete":
                    return _grid(row)
                self._check(connection, grid)
                _attach_table(connection, grid)
                done = connection.execute(
                    self._queries["complete_grid"], {"grid_key": grid.key, "summary": jsonb(dict(summary))}
                ).fetchone()
                assert done is not None  # noqa: S101 - the row is locked
                return _grid(done)

        return self._db.run(work)

    def _check(self, connection: Connection, grid: Grid) -> None:
        stored = connection.execute(
            sql.SQL(
                "SELECT resolution, count(*) AS cells, bit_xor(h3) AS cells_xor FROM {} GROUP BY resolution ORDER BY 1"
            ).format(_table(grid.key))
        ).fetchall()
        saved = connection.execute(self._queries["batch_tallies"], {"grid_key": grid.key}).fetchall()
        if stored != saved:
            raise GridInconsistent(grid.spec.grid_id, {"stored": stored, "saved": saved})

    def cells(self, grid: Grid, resolution: int) -> Iterator[Cells]:
        import numpy as np

        low = _CELL | resolution << _RESOLUTION_SHIFT
        for page in self._pages(grid, low - 1, _CELL | (resolution + 1) << _RESOLUTION_SHIFT):
            yield np.frombuffer(page, dtype=">i8").astype(np.int64)

    def checksum(self, grid: Grid) -> str:
        digest = hashlib.sha256()
        for page in self._pages(grid, 0, 1 << 60):
            digest.update(page)
        return digest.hexdigest()

    def _pages(self, grid: Grid, after: int, before: int) -> Iterator[bytes]:
        query = sql.SQL(
            "SELECT max(h3) AS last, string_agg(int8send(h3), '' ORDER BY h3) AS rows FROM (SELECT h3 FROM {}"
            " WHERE h3 > %(after)s AND h3 < %(before)s ORDER BY h3 LIMIT %(limit)s) page"
        ).format(_table(grid.key))
        yield from self._follow(query, {"after": after, "before": before, "limit": _PAGE_ROWS})

    def _follow(self, query: LiteralString | sql.Composed, named: Mapping[str, Any]) -> Iterator[bytes]:
        """Pages of rows, each starting after the last cell of the one before."""
        page = self._page(query, named)
        while page is not None and page["rows"] is not None:
            yield bytes(page["rows"])
            page = self._page(query, {**named, "after": page["last"]})

    def _page(self, query: LiteralString | sql.Composed, named: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self._db.run(lambda connection: connection.cursor(binary=True).execute(query, named).fetchone())

    def delete(self, grid_id: str) -> bool:
        def work(connection: Connection) -> bool:
            with connection.transaction():
                known = connection.execute(self._queries["get_grid"], {"grid_id": grid_id}).fetchone()
                if known is None:
                    return False
                self._delete(connection, known["grid_key"])
                return True

        return self._db.run(work)

    def _delete(self, connection: Connection, grid_key: int) -> None:
        connection.execute(self._queries["delete_grid"], {"grid_key": grid_key})
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_table(grid_key)))

    def save_statistics(self, grid: Grid, name: str, batch: BatchId, statistics: CellStatistics) -> bool:
        named = {
            "grid_key": grid.key,
            "name": name,
            "resolution": batch.resolution,
            "batch": batch.number,
            "cells": len(statistics.cells),
        }

        def work(connection: Connection) -> bool:
            with connection.transaction():
                if connection.execute(self._queries["claim_statistics"], named).fetchone() is None:
                    return False
                if len(statistics.cells):
                    _copy_statistics(connection, grid.key, name, statistics)
                return True

        return self._db.run(work)

    def statistics_batches(self, grid: Grid, name: str) -> frozenset[BatchId]:
        found = self._db.rows(self._queries["statistics_batches"], {"grid_key": grid.key, "name": name})
        return frozenset(BatchId(row["resolution"], row["batch"]) for row in found)

    def statistics(self, grid: Grid, name: str) -> Iterator[CellStatistics]:
        import numpy as np

        named = {"grid_key": grid.key, "name": name, "after": 0, "limit": _PAGE_ROWS}
        for page in self._follow(self._queries["statistics"], named):
            rows = np.frombuffer(page, dtype=np.dtype(list(_STATISTICS)))
            columns = {column: rows[column].astype(kind[1:]) for column, kind in _STATISTICS}
            yield CellStatistics(cells=columns.pop("h3"), **columns)

    def delete_statistics(self, grid: Grid, name: str) -> bool:
        named = {"grid_key": grid.key, "name": name}

        def work(connection: Connection) -> bool:
            with connection.transaction():
                connection.execute(self._queries["delete_statistics"], named)
                return connection.execute(self._queries["delete_statistics_batches"], named).rowcount > 0

        return self._db.run(work)


def _grid(row: Mapping[str, Any]) -> Grid:
    return Grid(
        key=row["grid_key"],
        spec=GridSpec.from_definition(row["definition"], bytes(row["boundary"])),
        complete=row["status"] == "complete",
        summary=row["summary"],
    )


def _table(grid_key: int) -> sql.Composable:
    return sql.Identifier("h3", f"cells_{grid_key}")


def _create_table(connection: Connection, grid_key: int) -> None:
    key = sql.Literal(grid_key)
    # The constraint spares ATTACH a scan; the default spares COPY a column.
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE h3.cells, CONSTRAINT one_grid CHECK (grid_key = {}))").format(
            _table(grid_key), key
        )
    )
    connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN grid_key SET DEFAULT {}").format(_table(grid_key), key))


def _attach_table(connection: Connection, grid: Grid) -> None:
    table = _table(grid.key)
    connection.execute("SET LOCAL maintenance_work_mem = '128MB'")
    try:
        connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (h3)").format(table))
    except psycopg.errors.UniqueViolation as error:
        raise GridInconsistent(grid.spec.grid_id, {"duplicate": str(error.diag.message_detail)}) from error
    connection.execute(sql.SQL("CREATE INDEX ON {} USING brin (resolution, parent)").format(table))
    connection.execute(
        sql.SQL("ALTER TABLE h3.cells ATTACH PARTITION {} FOR VALUES IN ({})").format(table, sql.Literal(grid.key))
    )
    connection.execute(sql.SQL("ANALYZE {}").format(table))


def _copy_cells(connection: Connection, grid_key: int, resolution: int, chunks: Iterable[Cells]) -> Tally:
    import numpy as np

    from services.h3 import bits

    tally = Tally()

    def columns() -> Iterator[Mapping[str, Any]]:
        nonlocal tally
        for cells in chunks:
            if len(cells):
                tally += Tally(len(cells), int(np.bitwise_xor.reduce(cells)))
                parents = {"parent": bits.parents(cells, resolution - 1)} if resolution else {}
                yield {"h3": cells, "resolution": resolution, **parents}

    described = [("h3", ">i8"), ("resolution", ">i2"), *([("parent", ">i8")] if resolution else [])]
    copy_rows(connection, _table(grid_key), described, columns())
    return tally


def _copy_statistics(connection: Connection, grid_key: int, name: str, statistics: CellStatistics) -> None:
    """Through a temporary table, because the name of the set is text and rows of numbers have one width."""
    connection.execute(
        "CREATE TEMPORARY TABLE new_statistics (h3 bigint, count bigint, weight float8, sum float8, mean float8,"
        " min float8, max float8, mode float8) ON COMMIT DROP"
    )
    columns = {"h3": statistics.cells, **{column: getattr(statistics, column) for column, _ in _STATISTICS[1:]}}
    copy_rows(connection, sql.Identifier("new_statistics"), _STATISTICS, [columns])
    connection.execute(
        "INSERT INTO h3.statistics (grid_key, name, h3, count, weight, sum, mean, min, max, mode)"
        " SELECT %s, %s, h3, count, weight, sum, mean, min, max, nullif(mode, 'NaN') FROM new_statistics",
        [grid_key, name],
    )
