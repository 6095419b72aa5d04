-- name: claim_and_complete
-- Many claims and completions in one statement and one commit: each is guarded as if it came alone. Tasks are locked
-- before stages and in order of their ids, as every statement here does, so that batches of several processes never
-- wait for each other in a circle.
WITH wanted AS (
    SELECT * FROM unnest(%(claim_ids)s::text[], %(claim_workers)s::text[], %(leases)s::interval[],
                         %(claim_keys)s::uuid[]) AS w (task_id, worker_id, lease, claim_key)
), free AS MATERIALIZED (
    SELECT t.task_id
    FROM app.tasks t JOIN app.jobs j USING (job_id)
    WHERE t.task_id = ANY(%(claim_ids)s) AND t.status IN ('pending', 'queued')
      AND (t.execute_after IS NULL OR t.execute_after <= now()) AND j.status = 'processing'
    ORDER BY t.task_id
    FOR NO KEY UPDATE OF t
), claimed AS (
    UPDATE app.tasks t
    SET status = 'processing', attempt = attempt + 1, lease_owner = w.worker_id, lease_expires_at = now() + w.lease,
        claim_key = w.claim_key, execute_after = NULL, started_at = now(), updated_at = now()
    FROM free f JOIN wanted w USING (task_id)
    WHERE t.task_id = f.task_id
    RETURNING t.*
), done AS (
    SELECT * FROM unnest(%(done_ids)s::text[], %(attempts)s::int[], %(results)s::jsonb[], %(done_workers)s::text[])
                  AS d (task_id, attempt, result, worker_id)
    WHERE (SELECT count(*) FROM claimed) >= 0  -- after the claims
), ended AS (
    UPDATE app.tasks t
    SET status = 'completed', result_data = d.result, error_details = NULL, lease_owner = NULL,
        lease_expires_at = NULL, finished_at = now(), updated_at = now()
    FROM done d
    WHERE t.task_id = d.task_id AND t.attempt = d.attempt AND t.status = 'processing'
    RETURNING t.task_id, t.job_id, t.job_type, t.stage, t.attempt, t.started_at, t.callback_url, t.traceparent,
              d.worker_id
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at)
    SELECT task_id, attempt, worker_id, 'completed', started_at FROM ended
), fewer AS MATERIALIZED (
    SELECT s.job_id, s.stage, n.gone, n.last_task_id
    FROM (SELECT job_id, stage, count(*)::int AS gone, max(task_id) AS last_task_id
          FROM ended GROUP BY job_id, stage) n
    JOIN app.stages s USING (job_id, stage)
    ORDER BY s.job_id, s.stage
    FOR NO KEY UPDATE OF s
), counted AS (
    UPDATE app.stages s
    SET remaining = s.remaining - f.gone, finished_at = CASE WHEN s.remaining = f.gone THEN now() END
    FROM fewer f WHERE s.job_id = f.job_id AND s.stage = f.stage
    RETURNING s.job_id, s.stage, s.remaining, f.last_task_id
), lights_out AS (
    INSERT INTO app.outbox (channel, message, job_id, available_at)
    SELECT 'jobs', app.stage_message(e.job_id, e.job_type, e.stage, e.worker_id, e.traceparent), e.job_id,
           now() + %(hold_jobs)s
    FROM ended e JOIN counted c ON e.task_id = c.last_task_id
    WHERE c.remaining = 0
    RETURNING entry_id, channel, message, created_at, job_id, NULL::text AS task_id
), called AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
    SELECT 'callbacks', app.ended_message(task_id, job_id, traceparent), job_id, task_id, now() + %(hold_callbacks)s
    FROM ended WHERE callback_url IS NOT NULL
    RETURNING entry_id, channel, message, created_at, job_id, task_id
), completed AS (
    SELECT e.task_id AS done_id, e.attempt AS done_attempt,
           CASE WHEN e.task_id = c.last_task_id THEN c.remaining END AS remaining, o.entry_id, o.channel, o.message, o.created_at AS entry_created_at
    FROM ended e
    JOIN counted c USING (job_id, stage)
    LEFT JOIN (SELECT * FROM lights_out UNION ALL SELECT * FROM called) o
      ON o.task_id = e.task_id OR (o.task_id IS NULL AND e.task_id = c.last_task_id AND o.job_id = e.job_id)
)
SELECT * FROM claimed FULL JOIN completed ON false
