-- name: task
-- A new hint for a waiting task, at once or when the task is due. None while one is on its way out already.
WITH waiting AS (
    SELECT t.task_id
    FROM app.tasks t JOIN app.jobs j USING (job_id)
    WHERE t.task_id = %(task_id)s AND t.status IN ('pending', 'queued') AND j.status = 'processing'
      AND NOT EXISTS (SELECT 1 FROM app.outbox o WHERE o.task_id = t.task_id AND o.channel <> 'callbacks'
                      AND o.sent_at IS NULL AND o.given_up_at IS NULL)
    FOR UPDATE OF t
), renewed AS (
    UPDATE app.tasks t SET next_hint_at = now() + %(hint_interval)s::interval
    FROM waiting WHERE t.task_id = waiting.task_id
    RETURNING t.task_id, t.job_id, t.job_type, t.task_type, t.stage, t.task_index, t.runs_on, t.attempt, t.traceparent,
              t.execute_after
)
INSERT INTO app.outbox (channel, message, job_id, task_id, available_at)
SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
       job_id, task_id, greatest(now(), execute_after)
FROM renewed
RETURNING entry_id

-- name: job
-- A new hint for a job that waits for an orchestrator: not planned yet, or its stage is complete and nothing followed.
WITH waiting AS (
    SELECT j.job_id
    FROM app.jobs j
    WHERE j.job_id = %(job_id)s AND j.status IN ('queued', 'processing')
      AND (j.status = 'queued'
           OR EXISTS (SELECT 1 FROM app.stages s WHERE s.job_id = j.job_id AND s.stage = j.stage AND s.remaining = 0))
      AND NOT EXISTS (SELECT 1 FROM app.outbox o WHERE o.job_id = j.job_id AND o.channel = 'jobs'
                      AND o.sent_at IS NULL AND o.given_up_at IS NULL)
    FOR UPDATE OF j
), renewed AS (
    UPDATE app.jobs j SET next_hint_at = now() + %(hint_interval)s::interval
    FROM waiting WHERE j.job_id = waiting.job_id
    RETURNING j.job_id, j.job_type, j.status, j.stage, j.traceparent
)
INSERT INTO app.outbox (channel, message, job_id)
SELECT 'jobs',
       CASE status WHEN 'queued'
            THEN jsonb_strip_nulls(jsonb_build_object('message_type', 'job', 'job_id', job_id, 'job_type', job_type,
                                                      'traceparent', traceparent))
            ELSE app.stage_message(job_id, job_type, stage, %(worker_id)s, traceparent) END,
       job_id
FROM renewed
RETURNING entry_id
