-- name: take
-- WITH, and not a subquery: a plan may run that once for each row of the outbox, skip what it has just taken, and go on
-- beyond the limit.
WITH due AS MATERIALIZED (
    SELECT entry_id FROM app.outbox
    WHERE channel = ANY(%(channels)s) AND available_at <= now() AND sent_at IS NULL AND given_up_at IS NULL
    ORDER BY available_at, entry_id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE app.outbox o SET available_at = now() + %(hold)s
FROM due WHERE o.entry_id = due.entry_id
RETURNING o.entry_id, o.channel, o.message, o.tries, o.created_at

-- name: mark_sent
WITH sent AS (
    UPDATE app.outbox SET sent_at = now(), last_error = NULL
    WHERE entry_id = ANY(%(entry_ids)s) AND sent_at IS NULL
    RETURNING task_id, channel
), waiting AS MATERIALIZED (
    SELECT tasks.task_id FROM app.tasks, sent
    WHERE tasks.task_id = sent.task_id AND sent.channel <> 'callbacks' AND tasks.status = 'pending'
    FOR UPDATE OF tasks SKIP LOCKED
)
UPDATE app.tasks t SET status = 'queued'
FROM waiting WHERE t.task_id = waiting.task_id

-- name: mark_unsent
UPDATE app.outbox
SET tries = tries + 1, last_error = %(error)s, available_at = now() + coalesce(%(retry_in)s, interval '0'),
    given_up_at = CASE WHEN %(retry_in)s::interval IS NULL THEN now() END
WHERE entry_id = %(entry_id)s AND sent_at IS NULL

-- name: next_due
SELECT min(available_at) - now() AS due_in FROM app.outbox
WHERE channel = ANY(%(channels)s) AND sent_at IS NULL AND given_up_at IS NULL

-- name: given_up
SELECT o.entry_id, o.channel, o.job_id, o.task_id, t.status AS task_status,
       substring(t.callback_url FROM '^[^:]+://[^/?#]+') AS receiver, o.tries, o.replays,
       o.last_error, o.created_at::text, o.given_up_at::text
FROM app.outbox o LEFT JOIN app.tasks t ON t.task_id = o.task_id
WHERE o.channel = %(channel)s AND o.given_up_at IS NOT NULL AND o.sent_at IS NULL
ORDER BY o.given_up_at DESC LIMIT %(limit)s

-- name: replay
UPDATE app.outbox SET given_up_at = NULL, tries = 0, replays = replays + 1, created_at = now(),
                      available_at = now()
WHERE channel = %(channel)s AND (%(entry_ids)s::bigint[] IS NULL OR entry_id = ANY(%(entry_ids)s))
  AND given_up_at IS NOT NULL AND sent_at IS NULL
