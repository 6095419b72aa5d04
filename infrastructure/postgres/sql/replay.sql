-- name: lock
SELECT * FROM app.jobs WHERE job_id = %(job_id)s FOR UPDATE

-- name: latest
SELECT job_id, run, status FROM app.jobs WHERE fingerprint = %(fingerprint)s ORDER BY run DESC LIMIT 1

-- name: open_tasks
SELECT count(*) AS n FROM app.tasks WHERE job_id = %(job_id)s AND status = 'processing'

-- name: first_open_stage
SELECT min(stage) AS stage FROM app.tasks WHERE job_id = %(job_id)s AND status <> 'completed'

-- name: last_saved_stage
SELECT max(stage) AS stage FROM app.tasks WHERE job_id = %(job_id)s AND checkpoint_phase >= %(phase)s

-- name: furthest_phase
SELECT coalesce(max(checkpoint_phase), 0) AS phase FROM app.tasks
WHERE job_id = %(job_id)s AND (%(stage)s::int IS NULL OR (stage = %(stage)s AND status <> 'completed'))

-- name: new_run
INSERT INTO app.jobs (job_id, fingerprint, run, job_type, status, stage, total_stages, parameters, failure_policy,
                      replay_of, submitted_by, traceparent, started_at, next_hint_at)
SELECT %(new_id)s, fingerprint, %(run)s, job_type, CASE WHEN %(kept)s = 0 THEN 'queued' ELSE 'processing' END, %(kept)s,
       total_stages, parameters, failure_policy, job_id, %(submitted_by)s, traceparent,
       CASE WHEN %(kept)s > 0 THEN now() END, now() + %(hint_interval)s
FROM app.jobs WHERE job_id = %(job_id)s
RETURNING *

-- name: carry_tasks
-- Completed tasks are kept as they are; with %(redo)s the others start over, at their checkpoint. %(phase)s takes the
-- checkpoints of tasks that start over back to that phase; %(saved_again)s starts over the tasks of the last stage that
-- completed with a checkpoint of that phase.
INSERT INTO app.tasks (task_id, job_id, job_type, task_type, stage, task_index, runs_on, status, parameters, attempt,
                       failures, interruptions, max_attempts, timeout_seconds, callback_url, result_data, error_details,
                       progress, progress_at, checkpoint_phase, checkpoint_data, checkpoint_cursor, checkpoint_artifacts,
                       checkpoint_version, checkpoint_updated_at, traceparent, started_at, finished_at, next_hint_at)
SELECT app.task_id(%(new_id)s, t.stage, t.task_index), %(new_id)s, t.job_type, t.task_type, t.stage, t.task_index,
       t.runs_on, coalesce(kept.status, 'pending'), t.parameters, coalesce(kept.attempt, 0), coalesce(kept.failures, 0),
       coalesce(kept.interruptions, 0), t.max_attempts, t.timeout_seconds, t.callback_url, kept.result_data,
       kept.error_details, kept.progress, kept.progress_at,
       CASE WHEN back.yes THEN nullif(%(phase)s::int, 0) ELSE t.checkpoint_phase END,
       CASE WHEN back.yes AND %(phase)s::int = 0 THEN NULL ELSE t.checkpoint_data END,
       CASE WHEN back.yes THEN NULL ELSE t.checkpoint_cursor END,
       CASE WHEN back.yes THEN (SELECT jsonb_object_agg(a.key, a.value) FROM jsonb_each(t.checkpoint_artifacts) a
                                WHERE (a.value ->> 'phase')::int <= %(phase)s::int)
            ELSE t.checkpoint_artifacts END,
       CASE WHEN back.yes AND %(phase)s::int = 0 THEN NULL ELSE t.checkpoint_version END,
       t.checkpoint_updated_at, t.traceparent, kept.started_at, kept.finished_at, now() + %(hint_interval)s
FROM app.tasks t
LEFT JOIN app.tasks kept
       ON kept.task_id = t.task_id
      AND (NOT %(redo)s OR (kept.status = 'completed'
                            AND NOT (%(saved_again)s AND kept.stage = %(kept)s AND kept.checkpoint_phase >= %(phase)s::int))),
LATERAL (SELECT kept.task_id IS NULL AND coalesce(t.checkpoint_phase, 0) >= %(phase)s::int AS yes) back
WHERE t.job_id = %(job_id)s AND t.stage <= %(kept)s

-- name: carry_items
INSERT INTO app.task_items (task_id, phase, item_key, data)
SELECT made.task_id, i.phase, i.item_key, i.data
FROM app.task_items i
JOIN app.tasks t USING (task_id)
JOIN app.tasks made ON made.task_id = app.task_id(%(new_id)s, t.stage, t.task_index)
WHERE t.job_id = %(job_id)s AND t.stage <= %(kept)s AND made.status = 'pending'
  AND (%(phase)s::int IS NULL OR i.phase <= %(phase)s::int OR coalesce(t.checkpoint_phase, 0) < %(phase)s::int)

-- name: carry_stages
INSERT INTO app.stages (job_id, stage, name, task_type, runs_on, total, remaining, failed, finished_at)
SELECT %(new_id)s, s.stage, s.name, s.task_type, s.runs_on, s.total, open.n, CASE WHEN %(redo)s THEN 0 ELSE s.failed END,
       CASE WHEN open.n = 0 THEN coalesce(s.finished_at, now()) END
FROM app.stages s,
     LATERAL (SELECT count(*) AS n FROM app.tasks t
              WHERE t.job_id = %(new_id)s AND t.stage = s.stage AND t.status = 'pending') open
WHERE s.job_id = %(job_id)s AND s.stage <= %(kept)s

-- name: hint
WITH job AS (SELECT * FROM app.jobs WHERE job_id = %(new_id)s),
hints AS (
    INSERT INTO app.outbox (channel, message, job_id, task_id)
    SELECT runs_on, app.task_message(task_id, job_id, job_type, task_type, stage, task_index, attempt, traceparent),
           job_id, task_id
    FROM app.tasks WHERE job_id = %(new_id)s AND status = 'pending'
    ORDER BY stage, task_index
    RETURNING entry_id
)
INSERT INTO app.outbox (channel, message, job_id)
SELECT 'jobs',
       CASE stage WHEN 0 THEN jsonb_strip_nulls(jsonb_build_object('message_type', 'job', 'job_id', job_id,
                                                                   'job_type', job_type, 'traceparent', traceparent))
            ELSE app.stage_message(job_id, job_type, stage, NULL, traceparent) END,
       job_id
FROM job WHERE NOT EXISTS (SELECT 1 FROM app.tasks WHERE job_id = %(new_id)s AND status = 'pending')
