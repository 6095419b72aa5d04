-- name: load
SELECT checkpoint_phase, checkpoint_data, checkpoint_cursor, checkpoint_artifacts, checkpoint_version
FROM app.tasks WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'

-- name: save
UPDATE app.tasks
SET checkpoint_phase = %(phase)s, checkpoint_data = %(data)s, checkpoint_cursor = %(cursor)s,
    checkpoint_artifacts = %(artifacts)s, checkpoint_version = %(version)s, checkpoint_updated_at = now()
WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
RETURNING task_id

-- name: clear
WITH task AS (
    UPDATE app.tasks
    SET checkpoint_phase = NULL, checkpoint_data = NULL, checkpoint_cursor = NULL, checkpoint_artifacts = NULL,
        checkpoint_version = NULL, checkpoint_updated_at = now()
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
    RETURNING task_id
), gone AS (
    DELETE FROM app.task_items i USING task WHERE i.task_id = task.task_id
)
SELECT task_id FROM task

-- name: load_items
SELECT i.item_key, i.data FROM app.task_items i
WHERE i.task_id = %(task_id)s AND i.phase = %(phase)s

-- name: save_items
-- The row lock orders this write before or after a successor's claim; a stale attempt inserts nothing.
WITH task AS (
    SELECT task_id FROM app.tasks
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
    FOR SHARE
), added AS (
    INSERT INTO app.task_items (task_id, phase, item_key, data)
    SELECT task.task_id, %(phase)s, i.item_key, i.data
    FROM task, unnest(%(keys)s::text[], %(data)s::jsonb[]) AS i (item_key, data)
    ON CONFLICT DO NOTHING
)
SELECT task_id FROM task

-- name: save_progress
UPDATE app.tasks SET progress = %(progress)s, progress_at = now()
WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
RETURNING task_id
