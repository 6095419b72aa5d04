-- name: submit
WITH latest AS (
    SELECT run, status FROM app.jobs WHERE fingerprint = %(fingerprint)s ORDER BY run DESC LIMIT 1
), wanted AS (
    SELECT coalesce((SELECT run FROM latest), 0) + 1 AS run
    WHERE NOT EXISTS (SELECT 1 FROM latest)
       OR (%(rerun)s AND (SELECT status FROM latest) NOT IN ('queued', 'processing'))
), job AS (
    INSERT INTO app.jobs (job_id, fingerprint, run, job_type, total_stages, parameters, failure_policy, submitted_by,
                          traceparent, next_hint_at, status, stage, started_at)
    SELECT CASE WHEN run = 1 THEN %(fingerprint)s
                ELSE encode(sha256(convert_to(%(fingerprint)s || '|run' || run, 'UTF8')), 'hex') END,
           %(fingerprint)s, run, %(job_type)s, %(total_stages)s, %(parameters)s, %(failure_policy)s, %(submitted_by)s,
           %(traceparent)s, now() + %(hint_interval)s,
           CASE WHEN %(tasks)s::json IS NULL THEN 'queued' ELSE 'processing' END, coalesce(%(stage)s::int, 0),
           CASE WHEN %(tasks)s::json IS NOT NULL THEN now() END
    FROM wanted
    ON CONFLICT DO NOTHING
    RETURNING *
),
-- include: planned
, unplanned AS (
    INSERT INTO app.outbox (channel, message, job_id, available_at)
    SELECT 'jobs',
           jsonb_strip_nulls(jsonb_build_object('message_type', 'job', 'job_id', job_id, 'job_type', job_type,
                                                'traceparent', traceparent)),
           job_id, now() + %(hold_jobs)s
    FROM job WHERE %(tasks)s::json IS NULL
    RETURNING entry_id, channel, message, created_at
)
SELECT job.*, e.entry_id, e.channel, e.message, e.created_at AS entry_created_at
FROM job LEFT JOIN (SELECT * FROM entries UNION ALL SELECT * FROM unplanned) e ON true

-- name: latest_run
SELECT * FROM app.jobs WHERE fingerprint = %(fingerprint)s ORDER BY run DESC LIMIT 1

-- name: get
SELECT * FROM app.jobs WHERE job_id = %(job_id)s

-- name: stages
SELECT * FROM app.stages WHERE job_id = %(job_id)s ORDER BY stage

-- name: plan_stage
WITH job AS (
    UPDATE app.jobs j
    SET status = 'processing', stage = %(stage)s, started_at = coalesce(started_at, now()), updated_at = now(),
        hints = 0, next_hint_at = now() + %(hint_interval)s
    WHERE job_id = %(job_id)s
      AND ((%(stage)s = 1 AND status = 'queued' AND stage = 0)
           OR (%(stage)s > 1 AND status = 'processing' AND stage = %(stage)s - 1
               AND EXISTS (SELECT 1 FROM app.stages s
                           WHERE s.job_id = j.job_id AND s.stage = %(stage)s - 1 AND s.remaining = 0)))
    RETURNING job_id, job_type, traceparent
),
-- include: planned
SELECT e.* FROM job LEFT JOIN entries e ON true

-- name: planned
-- A stage and its tasks, for the row of "job" if there is one; nothing when the tasks are null.
planned AS (
    INSERT INTO app.stages (job_id, stage, name, task_type, runs_on, total, remaining, finished_at)
    SELECT job_id, %(stage)s::int, %(name)s::text, %(task_type)s::text, %(runs_on)s::text, %(total)s::int, %(total)s::int,
           CASE WHEN %(total)s::int = 0 THEN now() END
    FROM job WHERE %(tasks)s::json IS NOT NULL
), made AS (
    INSERT INTO app.tasks (task_id, job_id, job_type, task_type, stage, task_index, runs_on, parameters, max_attempts,
                           timeout_seconds, callback_url, traceparent, next_hint_at)
    SELECT left(encode(sha256(convert_to(job.job_id || '|s' || %(stage)s::int || '|t' || t.task_index, 'UTF8')), 'hex'),
                40),
           job.job_id, job.job_type, %(task_type)s::text, %(stage)s::int, t.task_index, %(runs_on)s::text, t.parameters,
           t.max_attempts, t.timeout_seconds, t.callback_url, job.traceparent, now() + %(hint_interval)s
    FROM job, json_to_recordset(%(tasks)s::json)
              AS t (task_index int, parameters jsonb, max_attempts int, timeout_seconds float8, callback_url text)
    RETURNING task_id, job_id, job_type, task_type, stage, task_index, runs_on, attempt, traceparent
), hints AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
    SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
           job_id, task_id, now() + %(hold)s
    FROM made
    RETURNING entry_id, channel, message, created_at
), nothing_to_do AS (
    INSERT INTO app.outbox (channel, message, job_id, available_at)
    SELECT 'jobs', app.stage_message(job_id, job_type, %(stage)s::int, %(worker_id)s, traceparent), job_id,
           now() + %(hold_jobs)s
    FROM job WHERE %(total)s::int = 0
    RETURNING entry_id, channel, message, created_at
), entries AS (
    SELECT * FROM hints WHERE %(want_entries)s UNION ALL SELECT * FROM nothing_to_do
)

-- name: stage_results
SELECT task_id, task_index, status, result_data, error_details FROM app.tasks
WHERE job_id = %(job_id)s AND stage = %(stage)s AND status IN ('completed', 'failed', 'cancelled')
ORDER BY task_index

-- name: finish
UPDATE app.jobs j
SET status = %(status)s, result_data = %(result)s, finished_at = now(), updated_at = now()
WHERE job_id = %(job_id)s AND status = 'processing' AND stage = %(stage)s AND stage = total_stages
  AND EXISTS (SELECT 1 FROM app.stages s WHERE s.job_id = j.job_id AND s.stage = j.stage AND s.remaining = 0)
RETURNING job_id

-- name: end_early
WITH job AS (
    UPDATE app.jobs
    SET status = %(status)s, error_details = %(error)s, finished_at = now(), updated_at = now()
    WHERE job_id = %(job_id)s AND status IN ('queued', 'processing')
    RETURNING job_id
), waiting AS (
    SELECT t.task_id FROM app.tasks t, job
    WHERE t.job_id = job.job_id AND t.status IN ('pending', 'queued')
    FOR UPDATE OF t SKIP LOCKED
), cancelled AS (
    UPDATE app.tasks t
    SET status = 'cancelled', error_details = %(error)s, execute_after = NULL, finished_at = now(), updated_at = now()
    FROM waiting WHERE t.task_id = waiting.task_id
    RETURNING t.job_id, t.task_id, t.stage, t.callback_url, t.traceparent
), counted AS (
    UPDATE app.stages s SET remaining = s.remaining - n.gone
    FROM (SELECT job_id, stage, count(*) AS gone FROM cancelled GROUP BY job_id, stage) n
    WHERE s.job_id = n.job_id AND s.stage = n.stage
), calls AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
    SELECT 'callbacks', app.ended_message(task_id, job_id, traceparent), job_id, task_id, now()
    FROM cancelled WHERE callback_url IS NOT NULL
)
SELECT job_id FROM job
