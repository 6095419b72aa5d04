-- name: counts
-- Jobs that have not ended, and those that ended lately, by status.
SELECT status, count(*) AS n FROM app.jobs WHERE status IN ('queued', 'processing') GROUP BY status
UNION ALL
SELECT status, count(*) FROM app.jobs
WHERE status IN ('completed', 'completed_with_errors', 'failed', 'cancelled') AND created_at >= now() - %(since)s::interval
GROUP BY status

-- name: stages_of
SELECT job_id, stage, name, task_type, runs_on, total, remaining, failed, created_at, finished_at
FROM app.stages WHERE job_id = ANY(%(job_ids)s) ORDER BY job_id, stage

-- name: running_in
SELECT job_id, task_id, stage, task_index, lease_owner, attempt, started_at, progress
FROM app.tasks WHERE status = 'processing' AND job_id = ANY(%(job_ids)s)
ORDER BY started_at LIMIT 500

-- name: cells
-- Tasks by stage, cell and state; a stage of more tasks than cells has several tasks in each.
SELECT t.stage, t.task_index / t.size AS cell, t.state, count(*)::int AS n
FROM (
    SELECT t.stage, t.task_index, greatest(1, ceil(s.total / %(cells)s::float8)::int) AS size,
           CASE WHEN t.status = 'processing'
                THEN CASE WHEN t.attempt > 1 OR t.checkpoint_updated_at < t.started_at THEN 'resumed' ELSE 'running' END
                WHEN t.status IN ('completed', 'failed', 'cancelled') THEN t.status
                WHEN t.attempt = 0 THEN 'waiting'
                WHEN a.outcome = 'interrupted' THEN 'interrupted'
                ELSE 'retrying' END AS state
    FROM app.tasks t
    JOIN app.stages s USING (job_id, stage)
    LEFT JOIN app.task_attempts a
           ON a.task_id = t.task_id AND a.attempt = t.attempt AND t.status IN ('pending', 'queued')
    WHERE t.job_id = %(job_id)s
) t
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3

-- name: lanes
SELECT * FROM (
    SELECT t.task_id, t.stage, t.task_index, t.status, t.attempt, t.failures, t.interruptions, t.max_attempts,
           t.created_at, t.started_at, t.finished_at, t.execute_after, t.lease_owner, t.lease_expires_at, t.progress,
           t.progress_at, t.checkpoint_phase, t.error_details ->> 'type' AS error_type,
           left(t.error_details ->> 'message', 300) AS error_message,
           CASE WHEN t.status = 'processing'
                THEN CASE WHEN t.attempt > 1 OR t.checkpoint_updated_at < t.started_at THEN 'resumed' ELSE 'running' END
                WHEN t.status IN ('completed', 'failed', 'cancelled') THEN t.status
                WHEN t.attempt = 0 THEN 'waiting'
                WHEN a.outcome = 'interrupted' THEN 'interrupted'
                ELSE 'retrying' END AS state
    FROM app.tasks t
    LEFT JOIN app.task_attempts a
           ON a.task_id = t.task_id AND a.attempt = t.attempt AND t.status IN ('pending', 'queued')
    WHERE t.job_id = %(job_id)s AND t.stage = %(stage)s AND t.task_index >= %(start)s
) t
WHERE (%(state)s::text IS NULL OR state = %(state)s)
ORDER BY task_index
LIMIT %(limit)s

-- name: attempts_of
SELECT task_id, attempt, worker_id, outcome, started_at, ended_at, reason, error_details ->> 'type' AS error_type,
       left(error_details ->> 'message', 300) AS error_message
FROM app.task_attempts WHERE task_id = ANY(%(task_ids)s) ORDER BY task_id, attempt

-- name: errors
-- What went wrong in a job's tasks, the same fault told once.
SELECT error_details ->> 'type' AS type, error_details ->> 'code' AS code,
       left(error_details ->> 'message', 500) AS message, status = 'failed' AS final, count(*)::int AS tasks,
       min(stage) AS stage, (array_agg(task_id ORDER BY stage, task_index))[1] AS task_id
FROM app.tasks
WHERE job_id = %(job_id)s AND error_details IS NOT NULL AND status IN ('failed', 'queued', 'pending', 'processing')
GROUP BY 1, 2, 3, 4
ORDER BY final DESC, tasks DESC
LIMIT 20

-- name: saved_phases
SELECT stage, checkpoint_phase AS phase, count(*)::int AS tasks, max(checkpoint_updated_at) AS saved_at
FROM app.tasks WHERE job_id = %(job_id)s AND checkpoint_phase IS NOT NULL
GROUP BY stage, checkpoint_phase ORDER BY stage, checkpoint_phase

-- name: message_counts
SELECT channel, CASE WHEN sent_at IS NOT NULL THEN 'delivered' WHEN given_up_at IS NOT NULL THEN 'given up'
                     WHEN tries > 0 THEN 'tried again' ELSE 'waiting' END AS delivery,
       count(*)::int AS n
FROM app.outbox WHERE job_id = %(job_id)s GROUP BY 1, 2 ORDER BY 1, 2

-- name: messages
SELECT entry_id, channel, message ->> 'message_type' AS message_type, task_id, created_at, available_at, tries,
       left(last_error, 500) AS last_error, sent_at, given_up_at,
       CASE WHEN sent_at IS NOT NULL THEN 'delivered' WHEN given_up_at IS NOT NULL THEN 'given up'
            WHEN tries > 0 THEN 'tried again' ELSE 'waiting' END AS delivery
FROM app.outbox
WHERE job_id = %(job_id)s AND (%(task_id)s::text IS NULL OR task_id = %(task_id)s)
ORDER BY (channel = 'callbacks') DESC, entry_id DESC
LIMIT %(limit)s

-- name: runs
SELECT job_id, run, status, created_at, submitted_by, replay_of FROM app.jobs
WHERE fingerprint = %(fingerprint)s ORDER BY run DESC LIMIT 20

-- name: checkpoint
SELECT checkpoint_phase AS phase, checkpoint_data AS data, checkpoint_cursor AS cursor,
       checkpoint_artifacts AS artifacts, checkpoint_updated_at AS saved_at
FROM app.tasks WHERE task_id = %(task_id)s

-- name: item_counts
SELECT phase, count(*)::int AS items FROM app.task_items WHERE task_id = %(task_id)s GROUP BY phase ORDER BY phase

-- name: running
SELECT task_id, job_id, job_type, task_type, stage, task_index, attempt, lease_owner, started_at, progress,
       extract(epoch FROM lease_expires_at - now()) AS lease_left, extract(epoch FROM now() - progress_at) AS silent
FROM app.tasks WHERE status = 'processing' ORDER BY started_at LIMIT 200

-- name: waiting
-- At most 10,001 of each are counted: "more than 10,000" is enough to know.
SELECT place.runs_on, count(w.created_at)::int AS n, min(w.created_at) AS oldest
FROM (VALUES ('functions'), ('docker')) AS place (runs_on)
LEFT JOIN LATERAL (
    SELECT created_at FROM app.tasks
    WHERE status IN ('pending', 'queued') AND runs_on = place.runs_on
      AND (execute_after IS NULL OR execute_after <= now())
    LIMIT 10001
) w ON true
GROUP BY place.runs_on ORDER BY place.runs_on

-- name: unsent
SELECT channel.name AS channel, count(o.created_at)::int AS n, min(o.created_at) AS oldest, max(o.tries) AS tries
FROM (VALUES ('jobs'), ('functions'), ('docker'), ('callbacks')) AS channel (name)
LEFT JOIN LATERAL (
    SELECT created_at, tries FROM app.outbox
    WHERE channel = channel.name AND sent_at IS NULL AND given_up_at IS NULL
    LIMIT 10001
) o ON true
GROUP BY channel.name ORDER BY channel.name

-- name: undelivered
SELECT entry_id, channel, job_id, task_id, tries, replays, left(last_error, 2000) AS last_error, given_up_at
FROM app.outbox
WHERE given_up_at IS NOT NULL AND sent_at IS NULL
ORDER BY given_up_at DESC LIMIT %(limit)s

-- name: undelivered_count
SELECT count(*)::int AS n FROM (
    SELECT 1 FROM app.outbox WHERE given_up_at IS NOT NULL AND sent_at IS NULL LIMIT 10001
) o
