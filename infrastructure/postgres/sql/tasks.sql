-- name: get
SELECT * FROM app.tasks WHERE task_id = %(task_id)s

-- name: list
SELECT * FROM app.tasks
WHERE (%(job_id)s::text IS NULL OR job_id = %(job_id)s)
  AND (%(stage)s::int IS NULL OR stage = %(stage)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(runs_on)s::text IS NULL OR runs_on = %(runs_on)s)
ORDER BY job_id, stage, task_index
OFFSET %(offset)s LIMIT %(limit)s

-- name: count
SELECT stage, status, count(*) AS n FROM app.tasks WHERE job_id = %(job_id)s GROUP BY stage, status ORDER BY stage

-- name: attempts
SELECT * FROM app.task_attempts WHERE task_id = %(task_id)s ORDER BY attempt

-- name: claim_and_complete
SELECT (s.claimed).*, s.done_id, s.done_attempt, s.remaining, s.entry_id, s.channel, s.message, s.entry_created_at
FROM app.claim_and_complete(%(claims)s, %(completions)s, %(hold_jobs)s, %(hold_callbacks)s) s

-- name: unclaimed
SELECT t.*, t.status = 'processing' AND t.claim_key = %(claim_key)s AS is_ours, t.lease_expires_at > now() AS lease_is_live,
       t.execute_after > now() AS not_due, j.status AS job_status
FROM app.tasks t JOIN app.jobs j USING (job_id)
WHERE t.task_id = %(task_id)s

-- name: heartbeat
UPDATE app.tasks t SET lease_expires_at = now() + %(lease)s
FROM app.jobs j
WHERE t.task_id = %(task_id)s AND t.attempt = %(attempt)s AND t.status = 'processing' AND j.job_id = t.job_id
RETURNING j.status NOT IN ('queued', 'processing') AS cancel_requested

-- name: check_claim
SELECT j.status NOT IN ('queued', 'processing') AS cancel_requested
FROM app.tasks t JOIN app.jobs j USING (job_id)
WHERE t.task_id = %(task_id)s AND t.attempt = %(attempt)s AND t.status = 'processing'

-- name: attempt_outcome
SELECT outcome FROM app.task_attempts WHERE task_id = %(task_id)s AND attempt = %(attempt)s

-- name: retry
WITH ended AS (
    UPDATE app.tasks
    SET status = 'queued', failures = failures + 1, error_details = %(error)s, lease_owner = NULL,
        lease_expires_at = NULL, execute_after = now() + %(delay)s, updated_at = now(),
        hints = 0, next_hint_at = now() + %(delay)s + %(hint_interval)s
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
    RETURNING task_id, job_id, job_type, task_type, stage, task_index, runs_on, attempt, started_at, traceparent
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, error_details)
    SELECT task_id, attempt, %(worker_id)s, 'failed', started_at, %(error)s FROM ended
)
INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
       job_id, task_id, now() + %(delay)s
FROM ended
RETURNING entry_id, channel, message, created_at

-- name: release
WITH ended AS (
    UPDATE app.tasks
    SET status = 'queued', interruptions = interruptions + 1, lease_owner = NULL, lease_expires_at = NULL,
        execute_after = NULL, updated_at = now(), hints = 0, next_hint_at = now() + %(hint_interval)s
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
    RETURNING task_id, job_id, job_type, task_type, stage, task_index, runs_on, attempt, started_at, traceparent
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, reason)
    SELECT task_id, attempt, %(worker_id)s, 'interrupted', started_at, %(reason)s FROM ended
)
INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
       job_id, task_id, now() + CASE runs_on WHEN 'docker' THEN %(hold_docker)s ELSE %(hold_functions)s END
FROM ended
RETURNING entry_id, channel, message, created_at

-- name: cancel
WITH ended AS (
    UPDATE app.tasks
    SET status = 'cancelled', error_details = %(error)s, lease_owner = NULL, lease_expires_at = NULL,
        finished_at = now(), updated_at = now()
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing'
    RETURNING task_id, job_id, job_type, stage, attempt, started_at, callback_url, traceparent
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, reason)
    SELECT task_id, attempt, %(worker_id)s, 'cancelled', started_at, %(reason)s FROM ended
), counted AS (
    UPDATE app.stages s
    SET remaining = s.remaining - 1, finished_at = CASE WHEN s.remaining = 1 THEN now() END
    FROM ended e WHERE s.job_id = e.job_id AND s.stage = e.stage
    RETURNING s.remaining
), lights_out AS (
    -- A job that still wants the task goes on without it.
    INSERT INTO app.outbox (channel, message, job_id, available_at)
    SELECT 'jobs', app.stage_message(e.job_id, e.job_type, e.stage, %(worker_id)s, e.traceparent), e.job_id,
           now() + %(hold_jobs)s
    FROM ended e JOIN app.jobs j ON j.job_id = e.job_id AND j.status = 'processing', counted
    WHERE counted.remaining = 0
    RETURNING entry_id, channel, message, created_at
), called AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
    SELECT 'callbacks', app.ended_message(task_id, job_id, traceparent), job_id, task_id, now() + %(hold_callbacks)s
    FROM ended WHERE callback_url IS NOT NULL
    RETURNING entry_id, channel, message, created_at
)
SELECT counted.remaining, e.* FROM counted
LEFT JOIN (SELECT * FROM lights_out UNION ALL SELECT * FROM called) e ON true

-- name: fail
-- %(attempt)s NULL: end a waiting task that no transport can deliver. %(expired)s: only when its lease has run out.
WITH ended AS (
    UPDATE app.tasks
    SET status = 'failed', failures = failures + 1, error_details = %(error)s, lease_owner = NULL,
        lease_expires_at = NULL, execute_after = NULL, finished_at = now(), updated_at = now()
    WHERE task_id = %(task_id)s
      AND ((%(attempt)s::int IS NULL AND status IN ('pending', 'queued'))
           OR (attempt = %(attempt)s::int AND status = 'processing' AND (NOT %(expired)s OR lease_expires_at < now())))
    RETURNING task_id, job_id, job_type, stage, attempt, started_at, callback_url, traceparent
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, error_details)
    SELECT task_id, attempt, %(worker_id)s, CASE WHEN %(expired)s THEN 'lease_expired' ELSE 'failed' END, started_at,
           %(error)s
    FROM ended WHERE %(attempt)s::int IS NOT NULL
), job AS (
    UPDATE app.jobs j
    SET status = 'failed', error_details = %(error)s::jsonb || jsonb_build_object('task_id', e.task_id, 'stage', e.stage),
        finished_at = now(), updated_at = now()
    FROM ended e
    WHERE j.job_id = e.job_id AND j.status = 'processing' AND j.failure_policy = 'fail_fast'
    RETURNING j.job_id
), waiting AS (
    SELECT t.task_id FROM app.tasks t, job, ended
    WHERE t.job_id = job.job_id AND t.status IN ('pending', 'queued') AND t.task_id <> ended.task_id
    FOR UPDATE OF t SKIP LOCKED
), cancelled AS (
    UPDATE app.tasks t
    SET status = 'cancelled', execute_after = NULL, finished_at = now(), updated_at = now(),
        error_details = jsonb_build_object('type', 'JobFailed', 'retryable', false,
                                           'message', 'cancelled: another task of the job failed')
    FROM waiting WHERE t.task_id = waiting.task_id
    RETURNING t.task_id, t.job_id, t.callback_url, t.traceparent
), counted AS (
    UPDATE app.stages s
    SET remaining = s.remaining - 1 - (SELECT count(*) FROM cancelled), failed = s.failed + 1,
        finished_at = CASE WHEN s.remaining - 1 - (SELECT count(*) FROM cancelled) = 0 THEN now() END
    FROM ended e WHERE s.job_id = e.job_id AND s.stage = e.stage
    RETURNING s.remaining
), lights_out AS (
    INSERT INTO app.outbox (channel, message, job_id, available_at)
    SELECT 'jobs', app.stage_message(job_id, job_type, stage, %(worker_id)s, traceparent), job_id,
           now() + %(hold_jobs)s
    FROM ended, counted WHERE counted.remaining = 0 AND NOT EXISTS (SELECT 1 FROM job)
    RETURNING entry_id, channel, message, created_at
), called AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
    SELECT 'callbacks', app.ended_message(c.task_id, c.job_id, c.traceparent), c.job_id, c.task_id,
           now() + %(hold_callbacks)s
    FROM (SELECT task_id, job_id, callback_url, traceparent FROM ended
          UNION ALL SELECT task_id, job_id, callback_url, traceparent FROM cancelled) c
    WHERE c.callback_url IS NOT NULL
    RETURNING entry_id, channel, message, created_at
)
SELECT counted.remaining, e.* FROM counted
LEFT JOIN (SELECT * FROM lights_out UNION ALL SELECT * FROM called) e ON true
