-- What operators look at and do: the processes that are there, the record of actions, and indexes for lists.

CREATE TABLE app.workers (
    worker_id  text PRIMARY KEY,
    role       text NOT NULL,                       -- orchestrator, worker or embedded
    mode       text NOT NULL,
    version    text NOT NULL,
    state      text NOT NULL,                       -- of its lifecycle
    facts      jsonb NOT NULL,                      -- loops, memory, children, pool and relay, as its /health says
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE app.actions (
    action_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    actor     text NOT NULL,
    via       text NOT NULL CHECK (via IN ('dashboard', 'api', 'cli')),
    action    text NOT NULL,
    job_id    text,
    target    text,                                 -- a message's number, a task, a queue
    details   jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX actions_newest ON app.actions (at DESC, action_id DESC);
CREATE INDEX actions_job ON app.actions (job_id, at DESC) WHERE job_id IS NOT NULL;

CREATE INDEX jobs_by_id_prefix ON app.jobs (job_id text_pattern_ops);
CREATE INDEX jobs_by_type_and_status ON app.jobs (job_type, status, created_at DESC, job_id DESC);
CREATE INDEX outbox_given_up ON app.outbox (given_up_at DESC) WHERE given_up_at IS NOT NULL AND sent_at IS NULL;
