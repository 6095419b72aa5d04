-- name: expired
-- Executions whose lease has run out: their worker died, or was cut off for longer than the lease.
-- The page after (%(after)s, %(after_id)s).
SELECT t.task_id, t.attempt, t.lease_owner, t.lease_expires_at, t.failures, t.failures + 1 >= t.max_attempts AS exhausted,
       j.status NOT IN ('queued', 'processing') AS unwanted
FROM app.tasks t JOIN app.jobs j USING (job_id)
WHERE t.status = 'processing' AND t.lease_expires_at < now()
  AND (t.lease_expires_at, t.task_id) > (%(after)s::timestamptz, %(after_id)s)
ORDER BY t.lease_expires_at, t.task_id
LIMIT %(limit)s

-- name: requeue_expired
WITH ended AS (
    UPDATE app.tasks
    SET status = 'queued', failures = failures + 1, error_details = %(error)s, lease_owner = NULL,
        lease_expires_at = NULL, execute_after = now() + %(delay)s, updated_at = now(),
        hints = 0, next_hint_at = now() + %(delay)s + %(hint_interval)s
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing' AND lease_expires_at < now()
    RETURNING task_id, job_id, job_type, task_type, stage, task_index, runs_on, attempt, started_at, traceparent
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, error_details)
    SELECT task_id, attempt, %(worker_id)s, 'lease_expired', started_at, %(error)s FROM ended
)
INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
       job_id, task_id, now() + %(delay)s
FROM ended
RETURNING entry_id

-- name: cancel_expired
WITH ended AS (
    UPDATE app.tasks
    SET status = 'cancelled', error_details = %(error)s, lease_owner = NULL, lease_expires_at = NULL,
        finished_at = now(), updated_at = now()
    WHERE task_id = %(task_id)s AND attempt = %(attempt)s AND status = 'processing' AND lease_expires_at < now()
    RETURNING task_id, job_id, stage, attempt, started_at, callback_url, traceparent
), history AS (
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, error_details)
    SELECT task_id, attempt, %(worker_id)s, 'lease_expired', started_at, %(error)s FROM ended
), counted AS (
    UPDATE app.stages s SET remaining = s.remaining - 1
    FROM ended e WHERE s.job_id = e.job_id AND s.stage = e.stage
), called AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id)
    SELECT 'callbacks', app.ended_message(task_id, job_id, traceparent), job_id, task_id
    FROM ended WHERE callback_url IS NOT NULL
)
SELECT task_id FROM ended

-- name: resend_task_hints
-- A waiting, due task whose hint was sent a while ago and that nobody has claimed: the hint may be lost. Waiting is no
-- failure and spends no attempt; the interval doubles up to an hour.
WITH waiting AS (
    SELECT t.task_id, t.next_hint_at AS due
    FROM app.tasks t JOIN app.jobs j USING (job_id)
    WHERE t.status IN ('pending', 'queued') AND t.next_hint_at < now()
      AND (t.execute_after IS NULL OR t.execute_after <= now()) AND j.status = 'processing'
      AND NOT EXISTS (SELECT 1 FROM app.outbox o WHERE o.task_id = t.task_id AND o.channel <> 'callbacks'
                      AND o.sent_at IS NULL AND o.given_up_at IS NULL)
    ORDER BY t.next_hint_at, t.job_id, t.stage, t.task_index
    LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
), renewed AS (
    UPDATE app.tasks t
    SET hints = hints + 1,
        next_hint_at = now() + least(%(hint_interval)s::interval * power(2, least(hints + 1, 16)), interval '1 hour')
    FROM waiting WHERE t.task_id = waiting.task_id
    RETURNING t.task_id, t.job_id, t.job_type, t.task_type, t.stage, t.task_index, t.runs_on, t.attempt, t.traceparent,
              waiting.due
)
INSERT INTO app.outbox (channel, message, job_id, task_id)
SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
       job_id, task_id
FROM renewed
ORDER BY due, job_id, stage, task_index
RETURNING entry_id

-- name: resend_job_hints
-- Jobs that wait for an orchestrator: not planned yet, or their stage is complete and nothing followed.
WITH waiting AS (
    SELECT j.job_id, j.stage, j.next_hint_at AS due
    FROM app.jobs j
    WHERE j.status IN ('queued', 'processing') AND j.next_hint_at < now()
      AND (j.status = 'queued'
           OR EXISTS (SELECT 1 FROM app.stages s WHERE s.job_id = j.job_id AND s.stage = j.stage AND s.remaining = 0
                      AND s.finished_at < now() - %(hint_interval)s::interval))
      AND NOT EXISTS (SELECT 1 FROM app.outbox o WHERE o.job_id = j.job_id AND o.channel = 'jobs'
                      AND o.sent_at IS NULL AND o.given_up_at IS NULL)
    ORDER BY j.next_hint_at, j.job_id
    LIMIT %(limit)s
    FOR UPDATE OF j SKIP LOCKED
), renewed AS (
    UPDATE app.jobs j
    SET hints = hints + 1,
        next_hint_at = now() + least(%(hint_interval)s::interval * power(2, least(hints + 1, 16)), interval '1 hour')
    FROM waiting WHERE j.job_id = waiting.job_id
    RETURNING j.job_id, j.job_type, j.status, j.stage, j.traceparent, waiting.due
)
INSERT INTO app.outbox (channel, message, job_id)
SELECT 'jobs',
       CASE status WHEN 'queued'
            THEN jsonb_strip_nulls(jsonb_build_object('message_type', 'job', 'job_id', job_id, 'job_type', job_type,
                                                      'traceparent', traceparent))
            ELSE app.stage_message(job_id, job_type, stage, %(worker_id)s, traceparent) END,
       job_id
FROM renewed
ORDER BY due, job_id
RETURNING message ->> 'message_type' AS message_type

-- name: cancel_unwanted
-- Waiting tasks of jobs that have ended.
WITH unwanted AS (
    SELECT t.task_id, j.status FROM app.tasks t JOIN app.jobs j USING (job_id)
    WHERE t.status IN ('pending', 'queued') AND j.status NOT IN ('queued', 'processing')
    LIMIT %(limit)s
    FOR UPDATE OF t SKIP LOCKED
), cancelled AS (
    UPDATE app.tasks t
    SET status = 'cancelled', execute_after = NULL, finished_at = now(), updated_at = now(),
        error_details = jsonb_build_object('type', 'JobEnded', 'retryable', false,
                                           'message', 'cancelled: its job is ' || unwanted.status)
    FROM unwanted WHERE t.task_id = unwanted.task_id
    RETURNING t.task_id, t.job_id, t.stage, t.callback_url, t.traceparent
), counted AS (
    UPDATE app.stages s SET remaining = s.remaining - n.gone
    FROM (SELECT job_id, stage, count(*) AS gone FROM cancelled GROUP BY job_id, stage) n
    WHERE s.job_id = n.job_id AND s.stage = n.stage
), called AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id)
    SELECT 'callbacks', app.ended_message(task_id, job_id, traceparent), job_id, task_id
    FROM cancelled WHERE callback_url IS NOT NULL
)
SELECT task_id FROM cancelled

-- name: prune_outbox
DELETE FROM app.outbox WHERE entry_id IN (
    SELECT entry_id FROM app.outbox WHERE sent_at < now() - %(keep)s::interval LIMIT %(limit)s)

-- name: record
UPDATE app.sweeper
SET last_run_at = now(), last_run_by = %(worker_id)s, last_report = %(report)s, passes = passes + 1

-- name: last
SELECT last_run_at, last_run_by, last_report, passes, now() - last_run_at AS age FROM app.sweeper
