-- What POST /task/start accepted: a task waits here for a worker until it is claimed, through restarts.

ALTER TABLE app.tasks ADD COLUMN accepted_at timestamptz;
CREATE INDEX tasks_accepted ON app.tasks (accepted_at)
    WHERE status IN ('pending', 'queued') AND accepted_at IS NOT NULL;
