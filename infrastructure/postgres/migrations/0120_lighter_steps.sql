-- A CHECK and a trigger's WHEN are read again from their text for every statement, which took longer than the rest of a
-- claim. The migration runner writes what they say into functions, which are read once for each connection.

ALTER TABLE app.tasks DROP CONSTRAINT tasks_check;

-- As before, with one INSERT for the attempts of a batch.
CREATE OR REPLACE FUNCTION app.claim_and_complete(claims jsonb, completions jsonb, hold_jobs interval, hold_callbacks interval)
RETURNS TABLE (claimed app.tasks, done_id text, done_attempt integer, remaining integer, entry_id bigint, channel text,
               message jsonb, entry_created_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    step record;
    done record;
    done_ids text[] := '{}';
    done_attempts integer[] := '{}';
    done_workers text[] := '{}';
    done_jobs text[] := '{}';
    done_stages integer[] := '{}';
    done_starts timestamptz[] := '{}';
    last_out integer;
BEGIN
    FOR step IN
        SELECT * FROM jsonb_to_recordset(claims) AS c (task_id text, worker_id text, lease_seconds float8, claim_key uuid)
        ORDER BY c.task_id
    LOOP
        UPDATE app.tasks t
        SET status = 'processing', attempt = t.attempt + 1, lease_owner = step.worker_id,
            lease_expires_at = now() + make_interval(secs => step.lease_seconds), claim_key = step.claim_key,
            execute_after = NULL, started_at = now(), updated_at = now()
        FROM app.jobs j
        WHERE t.task_id = step.task_id AND t.status IN ('pending', 'queued')
          AND (t.execute_after IS NULL OR t.execute_after <= now())
          AND j.job_id = t.job_id AND j.status = 'processing'
        RETURNING t.* INTO claimed;
        IF FOUND THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    claimed := NULL;

    FOR step IN
        SELECT * FROM jsonb_to_recordset(completions) AS c (task_id text, attempt integer, worker_id text, result jsonb)
        ORDER BY c.task_id
    LOOP
        UPDATE app.tasks t
        SET status = 'completed', result_data = step.result, error_details = NULL, lease_owner = NULL,
            lease_expires_at = NULL, finished_at = now(), updated_at = now()
        WHERE t.task_id = step.task_id AND t.attempt = step.attempt AND t.status = 'processing'
        RETURNING t.task_id, t.attempt, t.job_id, t.stage, t.started_at, t.callback_url, t.traceparent INTO done;
        CONTINUE WHEN NOT FOUND;
        done_id := done.task_id;
        done_attempt := done.attempt;
        done_ids := array_append(done_ids, done.task_id);
        done_attempts := array_append(done_attempts, done.attempt);
        done_workers := array_append(done_workers, step.worker_id);
        done_jobs := array_append(done_jobs, done.job_id);
        done_stages := array_append(done_stages, done.stage);
        done_starts := array_append(done_starts, done.started_at);
        IF done.callback_url IS NULL THEN
            entry_id := NULL;
        ELSE
            INSERT INTO app.outbox AS o (channel, message, job_id, task_id, available_at)
            VALUES ('callbacks', app.ended_message(done.task_id, done.job_id, done.traceparent), done.job_id,
                    done.task_id, now() + hold_callbacks)
            RETURNING o.entry_id, o.channel, o.message, o.created_at
            INTO entry_id, channel, message, entry_created_at;
        END IF;
        RETURN NEXT;
    END LOOP;

    IF done_ids = '{}' THEN
        RETURN;
    END IF;
    INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at)
    SELECT d.task_id, d.attempt, d.worker_id, 'completed', d.started_at
    FROM unnest(done_ids, done_attempts, done_workers, done_starts) AS d (task_id, attempt, worker_id, started_at);
    FOR step IN
        SELECT d.job_id, d.stage, count(*)::integer AS gone, max(d.task_id) AS last_id
        FROM unnest(done_ids, done_jobs, done_stages) AS d (task_id, job_id, stage)
        GROUP BY d.job_id, d.stage ORDER BY d.job_id, d.stage
    LOOP
        UPDATE app.stages s
        SET remaining = s.remaining - step.gone, finished_at = CASE WHEN s.remaining = step.gone THEN now() END
        WHERE s.job_id = step.job_id AND s.stage = step.stage
        RETURNING s.remaining INTO remaining;
        CONTINUE WHEN remaining > 0;
        -- Which of the batch is named as the last one out is all the same, as long as it is one.
        last_out := array_position(done_ids, step.last_id);
        done_id := step.last_id;
        done_attempt := done_attempts[last_out];
        INSERT INTO app.outbox AS o (channel, message, job_id, available_at)
        SELECT 'jobs', app.stage_message(j.job_id, j.job_type, step.stage, done_workers[last_out], j.traceparent), j.job_id,
               now() + hold_jobs
        FROM app.jobs j WHERE j.job_id = step.job_id
        RETURNING o.entry_id, o.channel, o.message, o.created_at INTO entry_id, channel, message, entry_created_at;
        RETURN NEXT;
    END LOOP;
END $$;
