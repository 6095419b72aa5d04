-- name: record
INSERT INTO app.actions (actor, via, action, job_id, target, details)
VALUES (%(actor)s, %(via)s, %(action)s, %(job_id)s, %(target)s, %(details)s)

-- name: list
SELECT action_id, at, actor, via, action, job_id, target, details FROM app.actions
WHERE (%(before)s::bigint IS NULL OR action_id < %(before)s)
ORDER BY action_id DESC LIMIT %(limit)s

-- name: of_job
SELECT action_id, at, actor, via, action, job_id, target, details FROM app.actions
WHERE job_id = %(job_id)s ORDER BY at DESC, action_id DESC LIMIT %(limit)s
