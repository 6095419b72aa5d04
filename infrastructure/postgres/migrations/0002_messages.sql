-- The wire form of messages (core/messages.py), for statements that write the outbox.

CREATE FUNCTION app.task_message(task_id text, job_id text, job_type text, task_type text, stage integer,
                                 task_index integer, attempt integer, traceparent text)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'message_type', 'task', 'task_id', task_id, 'parent_job_id', job_id, 'job_type', job_type,
        'task_type', task_type, 'stage', stage, 'task_index', task_index, 'attempt', attempt,
        'traceparent', traceparent))
$$;

CREATE FUNCTION app.stage_message(job_id text, job_type text, stage integer, completed_by text, traceparent text)
RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'message_type', 'stage_complete', 'job_id', job_id, 'job_type', job_type, 'completed_stage', stage,
        'completed_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'completed_by', completed_by,
        'traceparent', traceparent))
$$;

CREATE FUNCTION app.ended_message(task_id text, job_id text, traceparent text)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'message_type', 'task_ended', 'task_id', task_id, 'parent_job_id', job_id, 'traceparent', traceparent))
$$;

-- The id of the task at an index of a stage (core/jobs.py: task_id).
CREATE FUNCTION app.task_id(job_id text, stage integer, task_index integer)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT left(encode(sha256(convert_to(job_id || '|s' || stage || '|t' || task_index, 'UTF8')), 'hex'), 40)
$$;
