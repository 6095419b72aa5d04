-- H3 grids. A grid's cells are a table of their own, loaded without indexes and attached to h3.cells when it is complete.

CREATE SCHEMA h3;

CREATE TABLE h3.grids (
    grid_key      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    grid_id       text NOT NULL UNIQUE,
    status        text NOT NULL DEFAULT 'building' CHECK (status IN ('building', 'complete')),
    fingerprint   text NOT NULL,           -- SHA-256 of what decides the cells and the batches
    definition    jsonb NOT NULL,
    boundary      bytea NOT NULL,          -- WKB, longitude and latitude in degrees
    summary       jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    completed_at  timestamptz
);

-- A row is written in the transaction that writes the batch's cells: what is here is done, what is not here is not there.
CREATE TABLE h3.batches (
    grid_key      integer NOT NULL REFERENCES h3.grids ON DELETE CASCADE,
    resolution    smallint NOT NULL,
    batch         integer NOT NULL,
    cells         bigint NOT NULL,
    cells_xor     bigint NOT NULL,         -- all indices combined by exclusive or
    saved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (grid_key, resolution, batch)
);

CREATE TABLE h3.cells (
    h3            bigint NOT NULL,         -- the H3 index; its order is that of resolution, then of the hierarchy
    parent        bigint,                  -- the cell one resolution coarser (null at resolution 0); it need not be in the grid
    grid_key      integer NOT NULL,
    resolution    smallint NOT NULL
) PARTITION BY LIST (grid_key);

CREATE TABLE h3.statistics_batches (
    grid_key      integer NOT NULL REFERENCES h3.grids ON DELETE CASCADE,
    name          text NOT NULL,
    resolution    smallint NOT NULL,
    batch         integer NOT NULL,
    cells         bigint NOT NULL,
    saved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (grid_key, name, resolution, batch)
);

CREATE TABLE h3.statistics (
    grid_key      integer NOT NULL REFERENCES h3.grids ON DELETE CASCADE,
    name          text NOT NULL,           -- the set of statistics: raster, band and options
    h3            bigint NOT NULL,
    count         bigint NOT NULL,         -- pixels
    weight        double precision NOT NULL,
    sum           double precision NOT NULL,
    mean          double precision NOT NULL,
    min           double precision NOT NULL,
    max           double precision NOT NULL,
    mode          double precision,
    PRIMARY KEY (grid_key, name, h3)
);

-- Cells by arithmetic: the descendants of a cell at a resolution are one range of indices.
-- Layout: https://h3geo.org/docs/core-library/h3Indexing

CREATE FUNCTION h3.resolution(cell bigint) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ((cell >> 52) & 15)::integer;

CREATE FUNCTION h3.parent(cell bigint, resolution integer) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (cell & ~(15::bigint << 52)) | (resolution::bigint << 52) | ((1::bigint << (3 * (15 - resolution))) - 1);

CREATE FUNCTION h3.first_descendant(cell bigint, resolution integer) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (cell & ~(15::bigint << 52) & ~((1::bigint << (3 * (15 - h3.resolution(cell)))) - 1))
       | (resolution::bigint << 52) | ((1::bigint << (3 * (15 - resolution))) - 1);

CREATE FUNCTION h3.last_descendant(cell bigint, resolution integer) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (h3.first_descendant(cell, resolution)
        | (((1::bigint << (3 * (15 - h3.resolution(cell)))) - (1::bigint << (3 * (15 - resolution)))) & 30158033218998));  -- sixes

CREATE FUNCTION h3.grid_cells(grid text, resolution integer) RETURNS SETOF h3.cells
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT c.* FROM h3.cells c
    WHERE c.grid_key = (SELECT g.grid_key FROM h3.grids g WHERE g.grid_id = $1)
      AND c.h3 >= ((1::bigint << 59) | ($2::bigint << 52)) AND c.h3 < ((1::bigint << 59) | (($2 + 1)::bigint << 52));
END;

CREATE FUNCTION h3.children(grid text, cell bigint, resolution integer) RETURNS SETOF h3.cells
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT c.* FROM h3.cells c
    WHERE c.grid_key = (SELECT g.grid_key FROM h3.grids g WHERE g.grid_id = $1)
      AND c.h3 BETWEEN h3.first_descendant($2, $3) AND h3.last_descendant($2, $3);
END;
