"""One contract for both grid stores: in memory and PostgreSQL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.errors import StoreUnavailable
from infrastructure.connection_pool import ConnectionPoolManager, PoolSettings
from infrastructure.postgres.database import Database
from infrastructure.postgres.h3_store import PostgresGridStore
from services.h3 import bits
from services.h3.area import resolve_area
from services.h3.grid import Containment, Grid, GridSpec, Method, Tally
from services.h3.memory_store import InMemoryGridStore, tally
from services.h3.plan import GridPlan
from services.h3.ports import BatchId, CellStatistics, GridConflict, GridInconsistent, GridStore
from tests.h3_support import concatenated


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> GridStore:
    if request.param == "memory":
        return InMemoryGridStore()
    return PostgresGridStore(request.getfixturevalue("database"))


def spec(grid_id: str = "rwanda", **changes: Any) -> GridSpec:
    area = resolve_area("RWA")
    made = GridSpec(
        grid_id=grid_id,
        method=Method.POLYFILL,
        containment=Containment.CENTER,
        base_resolution=4,
        resolutions=(4, 5, 6),
        batch_cells=100,
        label="RWA",
        source="test",
        boundary=area.wkb,
        bbox=area.bbox,
        area_km2=area.area_km2,
    )
    return replace(made, **changes)


def fill(store: GridStore, grid: Grid) -> GridPlan:
    plan = GridPlan(grid.spec)
    for resolution in grid.spec.resolutions:
        for number in range(plan.batches(resolution)):
            store.save_batch(grid, BatchId(resolution, number), lambda r=resolution, n=number: plan.rows(r, n))
    return plan


def all_cells(plan: GridPlan) -> bits.Cells:
    return concatenated(
        chunk for step in plan.spec.resolutions for n in range(plan.batches(step)) for chunk in plan.rows(step, n)
    )


def never() -> Iterable[bits.Cells]:
    raise AssertionError("a batch that is there must not be made again")


def test_a_grid_is_begun_once(store: GridStore) -> None:
    first, again = store.begin(spec()), store.begin(spec())
    assert first == again
    assert not first.complete
    assert store.get("rwanda") == first
    assert store.get("nowhere") is None
    assert first.spec == spec()


def test_another_definition_of_the_same_id_is_refused_unless_it_replaces(store: GridStore) -> None:
    fill(store, store.begin(spec()))
    with pytest.raises(GridConflict, match="containment"):
        store.begin(spec(containment=Containment.FULL))
    replaced = store.begin(spec(containment=Containment.FULL), replace=True)
    assert store.batches(replaced, 4) == {}
    assert store.begin(spec(containment=Containment.FULL), replace=True) == replaced
    fill(store, replaced)
    assert store.begin(spec(containment=Containment.FULL), replace=True) == replaced
    assert store.batches(replaced, 4)


def test_batches_are_there_once_and_as_a_whole(store: GridStore) -> None:
    grid = store.begin(spec())
    plan = fill(store, grid)
    rows = concatenated(plan.rows(6, 2))
    assert plan.batches(6) > 3
    assert store.batches(grid, 6)[2] == tally(rows)
    assert store.save_batch(grid, BatchId(6, 2), never) == tally(rows)
    assert sum(store.batches(grid, 6).values(), Tally()).cells == 622


def test_a_batch_that_fails_leaves_nothing(store: GridStore) -> None:
    grid = store.begin(spec())

    def broken() -> Iterator[bits.Cells]:
        yield np.array([1, 2, 3], dtype=np.int64)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.save_batch(grid, BatchId(4, 0), broken)
    assert store.batches(grid, 4) == {}
    plan = fill(store, grid)
    published = store.publish(grid, {})
    assert store.checksum(published) == hashlib.sha256(np.sort(all_cells(plan)).astype(">i8").tobytes()).hexdigest()


def test_an_empty_batch_is_done(store: GridStore) -> None:
    grid = store.begin(spec())
    assert store.save_batch(grid, BatchId(4, 7), list) == Tally()
    assert store.batches(grid, 4) == {7: Tally()}


def test_a_published_grid_has_its_cells_in_order_and_its_summary(store: GridStore) -> None:
    grid = store.begin(spec())
    plan = fill(store, grid)
    published = store.publish(grid, {"cells": 722})
    assert published.complete
    assert published.summary == {"cells": 722}
    assert store.get("rwanda") == published
    assert store.publish(grid, {"cells": 0}) == published, "publishing again changes nothing"
    everything = all_cells(plan)
    for resolution in (4, 5, 6):
        found = concatenated(store.cells(published, resolution))
        assert np.array_equal(found, everything[bits.resolution_of(everything) == resolution])
    wanted = hashlib.sha256(np.sort(everything).astype(">i8").tobytes()).hexdigest()
    assert store.checksum(published) == wanted


def test_a_published_grid_takes_no_more_batches(store: GridStore) -> None:
    grid = store.begin(spec())
    fill(store, grid)
    store.publish(grid, {})
    with pytest.raises(GridInconsistent):
        store.save_batch(grid, BatchId(6, 999), lambda: [np.array([1], dtype=np.int64)])


def test_a_cell_that_is_there_twice_is_never_published(store: GridStore) -> None:
    grid = store.begin(spec())
    cells = bits.children(bits.base_cells()[:1], 4)
    store.save_batch(grid, BatchId(4, 0), lambda: [cells])
    store.save_batch(grid, BatchId(4, 1), lambda: [cells[:3]])
    with pytest.raises(GridInconsistent):
        store.publish(grid, {})
    known = store.get("rwanda")
    assert known is not None
    assert not known.complete


def test_grids_do_not_mix(store: GridStore) -> None:
    one, other = store.begin(spec("one")), store.begin(spec("other", resolutions=(4, 5)))
    fill(store, other)
    fill(store, one)
    one, other = store.publish(one, {"n": 1}), store.publish(other, {"n": 2})
    assert sum(len(chunk) for chunk in store.cells(one, 6)) == 622
    assert sum(len(chunk) for chunk in store.cells(other, 6)) == 0
    assert [grid.spec.grid_id for grid in store.grids()] == ["one", "other"]
    assert store.delete("one")
    assert not store.delete("one")
    assert store.get("one") is None
    assert sum(len(chunk) for chunk in store.cells(other, 5)) == 88


def test_a_building_grid_can_be_deleted_and_begun_again(store: GridStore) -> None:
    fill(store, store.begin(spec()))
    assert store.delete("rwanda")
    assert store.batches(store.begin(spec()), 4) == {}


def statistics(cells: bits.Cells) -> CellStatistics:
    numbers = np.arange(len(cells), dtype=np.float64)
    return CellStatistics(
        cells=cells,
        count=np.arange(len(cells), dtype=np.int64) + 1,
        weight=numbers + 1,
        sum=numbers * 2,
        mean=numbers / 3,
        min=-numbers,
        max=numbers,
        mode=np.where(numbers % 2 == 0, np.nan, numbers),
    )


def test_statistics_are_kept_by_name_once_and_in_order(store: GridStore) -> None:
    grid = store.begin(spec())
    cells = bits.children(bits.base_cells()[5:6], 3)
    later, sooner = BatchId(3, 1), BatchId(3, 0)
    assert store.save_statistics(grid, "height", later, statistics(cells[100:]))
    assert store.save_statistics(grid, "height", sooner, statistics(cells[:100]))
    assert not store.save_statistics(grid, "height", sooner, statistics(cells[:50]))
    assert store.save_statistics(grid, "empty", sooner, statistics(cells[:0]))
    assert store.statistics_batches(grid, "height") == {later, sooner}
    chunks = list(store.statistics(grid, "height"))
    assert np.array_equal(np.concatenate([chunk.cells for chunk in chunks]), cells)
    for name in ("count", "weight", "sum", "mean", "min", "max", "mode"):
        found = np.concatenate([getattr(chunk, name) for chunk in chunks])
        wanted = np.concatenate([getattr(statistics(part), name) for part in (cells[:100], cells[100:])])
        assert np.array_equal(found, wanted, equal_nan=name == "mode"), name
    assert list(store.statistics(grid, "empty")) == []
    assert store.statistics_batches(grid, "empty") == {sooner}
    assert store.delete_statistics(grid, "height")
    assert not store.delete_statistics(grid, "height")
    assert list(store.statistics(grid, "height")) == []


class TestPostgres:
    """What only PostgreSQL can do wrong."""

    def test_two_workers_on_one_batch_save_it_once(self, database: Database) -> None:
        store = PostgresGridStore(database)
        grid = store.begin(spec())
        plan = GridPlan(grid.spec)
        entered, go_on = threading.Event(), threading.Event()
        made: list[str] = []

        def slow() -> Iterator[bits.Cells]:
            made.append("first")
            entered.set()
            assert go_on.wait(20)
            yield from plan.rows(6, 0)

        def second() -> Iterator[bits.Cells]:
            made.append("second")
            yield from plan.rows(6, 0)

        results: list[Tally] = []
        workers = [
            threading.Thread(target=lambda: results.append(store.save_batch(grid, BatchId(6, 0), slow))),
            threading.Thread(target=lambda: results.append(store.save_batch(grid, BatchId(6, 0), second))),
        ]
        workers[0].start()
        assert entered.wait(20)
        workers[1].start()
        _until_blocked(database)
        go_on.set()
        for worker in workers:
            worker.join(20)
        assert made == ["first"]
        assert results == [tally(concatenated(plan.rows(6, 0)))] * 2

    def test_a_killed_connection_is_tried_again_and_the_batch_is_there_once(self, database: Database) -> None:
        store = PostgresGridStore(database)
        grid = store.begin(spec())
        plan = GridPlan(grid.spec)
        tries: list[int] = []

        def rows() -> Iterator[bits.Cells]:
            tries.append(1)
            for chunk in plan.rows(6, 0):
                yield chunk
                if len(tries) == 1:
                    _kill_others(database)

        saved = store.save_batch(grid, BatchId(6, 0), rows)
        assert len(tries) == 2
        assert saved == tally(concatenated(plan.rows(6, 0)))
        assert store.batches(grid, 6) == {0: saved}

    def test_tampered_cells_are_not_published(self, database: Database) -> None:
        store = PostgresGridStore(database)
        grid = store.begin(spec())
        fill(store, grid)
        assert database.execute("DELETE FROM h3.cells_1 WHERE h3 = (SELECT min(h3) FROM h3.cells_1)") == 1
        with pytest.raises(GridInconsistent):
            store.publish(grid, {})

    def test_rows_carry_resolution_and_parent(self, database: Database) -> None:
        store = PostgresGridStore(database)
        grid = store.begin(spec(base_resolution=0, resolutions=(0, 5), containment=Containment.OVERLAP))
        fill(store, grid)
        store.publish(grid, {})
        rows = database.rows("SELECT h3, parent, resolution, grid_key FROM h3.cells ORDER BY h3")
        assert {row["resolution"] for row in rows} == {0, 5}
        assert {row["parent"] for row in rows if row["resolution"] == 0} == {None}
        for row in rows:
            if row["resolution"] == 5:
                assert row["parent"] == bits.parents(np.array([row["h3"]]), 4)[0]

    def test_the_sql_functions_agree_with_the_arithmetic(self, database: Database) -> None:
        for cell in [*bits.children(bits.base_cells()[13:16], 3)[::37].tolist(), *bits.base_cells()[:20].tolist()]:
            own = int(bits.resolution_of(np.array([cell]))[0])
            for finer in (own, own + 1, 9, 15):
                row = database.row(
                    "SELECT h3.resolution(%(c)s) AS own, h3.first_descendant(%(c)s, %(r)s) AS first,"
                    " h3.last_descendant(%(c)s, %(r)s) AS last, h3.parent(%(c)s, 0) AS top",
                    {"c": cell, "r": finer},
                )
                assert row == {
                    "own": own,
                    "first": bits.first_descendant(cell, finer),
                    "last": bits.last_descendant(cell, finer),
                    "top": bits.parents(np.array([cell]), 0)[0],
                }

    def test_cells_of_a_grid_and_children_are_found_by_an_index(self, database: Database) -> None:
        store = PostgresGridStore(database)
        grid = store.begin(spec(base_resolution=4, resolutions=(4, 8), batch_cells=100_000))
        plan = fill(store, grid)
        store.publish(grid, {})
        assert len(database.rows("SELECT * FROM h3.grid_cells('rwanda', 4)")) == 12
        parent = concatenated(plan.rows(4, 0)).tolist()[5]
        children = database.rows("SELECT h3 FROM h3.children('rwanda', %(c)s, 8) ORDER BY h3", {"c": parent})
        wanted = bits.children(np.array([parent]), 8)
        kept = concatenated(chunk for number in range(plan.batches(8)) for chunk in plan.rows(8, number))
        assert [row["h3"] for row in children] == np.intersect1d(kept, wanted).tolist()
        queries = {
            "children": "SELECT * FROM h3.children('rwanda', 600000000000000000, 8)",
            "cell by id": "SELECT * FROM h3.cells WHERE grid_key = 1 AND h3 = 600000000000000000",
            "by parent": "SELECT * FROM h3.cells WHERE grid_key = 1 AND resolution = 8 AND parent = 600000000000000000",
        }
        for name, query in queries.items():
            plan_text = "\n".join(row["QUERY PLAN"] for row in database.rows(f"EXPLAIN {query}"))  # type: ignore[arg-type]
            assert "Index" in plan_text, (name, plan_text)
            assert "Seq Scan on cells" not in plan_text, (name, plan_text)

    def test_an_unreachable_database_is_unavailable(self) -> None:
        pool = ConnectionPoolManager(
            "postgresql://127.0.0.1:1/none",
            PoolSettings(min_size=0, max_size=1, acquire_timeout=0.5, connect_timeout=1),
        )
        try:
            with pytest.raises(StoreUnavailable):
                PostgresGridStore(Database(pool)).get("rwanda")
        finally:
            pool.close()


def _until_blocked(database: Database) -> None:
    for _ in range(2000):
        row = database.row("SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        if row and row["n"]:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the second worker did not wait for the first")


def _kill_others(database: Database) -> None:
    with database.pool.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database() AND query LIKE 'COPY%'"
        )
