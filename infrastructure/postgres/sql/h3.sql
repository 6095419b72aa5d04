-- name: insert_grid
INSERT INTO h3.grids (grid_id, fingerprint, definition, boundary)
VALUES (%(grid_id)s, %(fingerprint)s, %(definition)s, %(boundary)s)
ON CONFLICT (grid_id) DO NOTHING
RETURNING grid_key, grid_id, status, definition, boundary, summary

-- name: get_grid
SELECT grid_key, grid_id, status, definition, boundary, summary FROM h3.grids WHERE grid_id = %(grid_id)s

-- name: list_grids
SELECT grid_key, grid_id, status, definition, boundary, summary FROM h3.grids ORDER BY grid_id

-- name: lock_grid
SELECT grid_key, grid_id, status, definition, boundary, summary FROM h3.grids WHERE grid_key = %(grid_key)s FOR UPDATE

-- name: delete_grid
DELETE FROM h3.grids WHERE grid_key = %(grid_key)s

-- name: batches
SELECT batch, cells, cells_xor FROM h3.batches WHERE grid_key = %(grid_key)s AND resolution = %(resolution)s

-- name: claim_batch
INSERT INTO h3.batches (grid_key, resolution, batch, cells, cells_xor)
SELECT grid_key, %(resolution)s, %(batch)s, 0, 0 FROM h3.grids WHERE grid_key = %(grid_key)s AND status = 'building'
ON CONFLICT DO NOTHING
RETURNING batch

-- name: batch
SELECT cells, cells_xor FROM h3.batches
WHERE grid_key = %(grid_key)s AND resolution = %(resolution)s AND batch = %(batch)s

-- name: finish_batch
UPDATE h3.batches SET cells = %(cells)s, cells_xor = %(cells_xor)s
WHERE grid_key = %(grid_key)s AND resolution = %(resolution)s AND batch = %(batch)s

-- name: batch_tallies
SELECT resolution, sum(cells)::bigint AS cells, bit_xor(cells_xor) AS cells_xor FROM h3.batches
WHERE grid_key = %(grid_key)s GROUP BY resolution HAVING sum(cells) > 0 ORDER BY resolution

-- name: complete_grid
UPDATE h3.grids SET status = 'complete', summary = %(summary)s, completed_at = now() WHERE grid_key = %(grid_key)s
RETURNING grid_key, grid_id, status, definition, boundary, summary

-- name: claim_statistics
INSERT INTO h3.statistics_batches (grid_key, name, resolution, batch, cells)
VALUES (%(grid_key)s, %(name)s, %(resolution)s, %(batch)s, %(cells)s)
ON CONFLICT DO NOTHING
RETURNING batch

-- name: statistics_batches
SELECT resolution, batch FROM h3.statistics_batches WHERE grid_key = %(grid_key)s AND name = %(name)s

-- name: statistics
SELECT max(h3) AS last, string_agg(int8send(h3) || int8send(count) || float8send(weight) || float8send(sum)
       || float8send(mean) || float8send(min) || float8send(max) || float8send(coalesce(mode, 'NaN')), '' ORDER BY h3)
       AS rows
FROM (SELECT * FROM h3.statistics WHERE grid_key = %(grid_key)s AND name = %(name)s AND h3 > %(after)s
      ORDER BY h3 LIMIT %(limit)s) page

-- name: delete_statistics_batches
DELETE FROM h3.statistics_batches WHERE grid_key = %(grid_key)s AND name = %(name)s

-- name: delete_statistics
DELETE FROM h3.statistics WHERE grid_key = %(grid_key)s AND name = %(name)s
