-- name: report
INSERT INTO app.workers (worker_id, role, mode, version, state, facts)
VALUES (%(worker_id)s, %(role)s, %(mode)s, %(version)s, %(state)s, %(facts)s)
ON CONFLICT (worker_id) DO UPDATE
SET role = excluded.role, mode = excluded.mode, version = excluded.version, state = excluded.state,
    facts = excluded.facts, seen_at = now(),
    started_at = CASE WHEN %(first)s THEN now() ELSE app.workers.started_at END

-- name: forget
DELETE FROM app.workers WHERE seen_at < now() - %(after)s::interval

-- name: list
SELECT worker_id, role, mode, version, state, facts, started_at, seen_at, now() - seen_at AS age
FROM app.workers ORDER BY state = 'stopped', role, worker_id LIMIT 500
