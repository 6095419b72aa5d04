-- name: accept
-- One statement for both kinds: a planned task is marked as accepted, an ad-hoc one is made with a job of its own. One
-- row comes back: how many wait, and the task as it is now; without a task when there is none, or when another
-- transaction makes it at this moment.
WITH backlog AS (
    SELECT count(*) AS waiting FROM app.tasks WHERE status IN ('pending', 'queued') AND accepted_at IS NOT NULL
), planned AS (
    UPDATE app.tasks t
    SET status = 'queued', accepted_at = now(), callback_url = coalesce(%(callback_url)s, callback_url)
    FROM backlog
    WHERE t.task_id = %(task_id)s AND t.status IN ('pending', 'queued') AND t.accepted_at IS NULL
      AND backlog.waiting < %(max_backlog)s AND t.runs_on = 'docker'
      AND (%(task_type)s::text IS NULL OR t.task_type = %(task_type)s)
      AND (%(job_id)s::text IS NULL OR t.job_id = %(job_id)s)
      AND (%(parameters)s::jsonb IS NULL OR t.parameters = %(parameters)s::jsonb)
    RETURNING t.*
), job AS (
    INSERT INTO app.jobs (job_id, fingerprint, job_type, status, stage, total_stages, parameters, failure_policy,
                          submitted_by, traceparent, started_at, next_hint_at)
    SELECT %(adhoc_job_id)s, %(adhoc_job_id)s, 'single_task', 'processing', 1, 1,
           jsonb_build_object('task_type', %(task_type)s::text, 'parameters', %(adhoc_parameters)s::jsonb), 'fail_fast',
           %(submitted_by)s, %(traceparent)s, now(), now() + %(hint_interval)s
    FROM backlog
    WHERE %(adhoc)s AND backlog.waiting < %(max_backlog)s
      AND NOT EXISTS (SELECT 1 FROM app.tasks WHERE task_id = %(task_id)s)
    ON CONFLICT DO NOTHING
    RETURNING job_id, traceparent
), stage AS (
    INSERT INTO app.stages (job_id, stage, name, task_type, runs_on, total, remaining)
    SELECT job_id, 1, 'task', %(task_type)s, 'docker', 1, 1 FROM job
), adhoc AS (
    INSERT INTO app.tasks (task_id, job_id, job_type, task_type, stage, task_index, runs_on, status, parameters,
                           max_attempts, callback_url, traceparent, accepted_at, next_hint_at)
    SELECT %(task_id)s, job_id, 'single_task', %(task_type)s, 1, 0, 'docker', 'queued', %(adhoc_parameters)s::jsonb,
           %(max_attempts)s, %(callback_url)s, traceparent, now(), now() + %(hint_interval)s
    FROM job
    RETURNING *
), found AS (
    SELECT true AS accepted, planned.* FROM planned
    UNION ALL SELECT true, adhoc.* FROM adhoc
    UNION ALL SELECT false, t.* FROM app.tasks t
              WHERE t.task_id = %(task_id)s AND NOT EXISTS (SELECT 1 FROM planned)
)
SELECT backlog.waiting, found.* FROM backlog LEFT JOIN found ON true

-- name: waiting
SELECT task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent FROM app.tasks
WHERE status IN ('pending', 'queued') AND accepted_at IS NOT NULL
  AND (execute_after IS NULL OR execute_after <= now())
  AND NOT task_id = ANY(%(known)s)
ORDER BY accepted_at
LIMIT %(limit)s

-- name: figures
SELECT count(*) FILTER (WHERE status IN ('pending', 'queued') AND accepted_at IS NOT NULL) AS waiting,
       count(*) FILTER (WHERE status = 'processing') AS running,
       extract(epoch FROM now() - min(accepted_at) FILTER (WHERE status IN ('pending', 'queued')))::float8
           AS oldest_waiting_seconds
FROM app.tasks
WHERE runs_on = 'docker' AND status IN ('pending', 'queued', 'processing')
