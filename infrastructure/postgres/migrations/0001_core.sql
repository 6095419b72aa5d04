-- Jobs, stages, tasks, attempts, checkpoints and the outbox.
-- Legal status transitions are enforced by triggers that the migration runner writes from core/states.py.

CREATE TABLE app.jobs (
    job_id          text PRIMARY KEY,
    fingerprint     text NOT NULL,                -- SHA-256 of job type and canonical parameters
    run             integer NOT NULL DEFAULT 1,   -- runs of one fingerprint are numbered
    job_type        text NOT NULL,
    status          text NOT NULL DEFAULT 'queued',
    stage           integer NOT NULL DEFAULT 0,   -- the stage that is planned; 0 before the first
    total_stages    integer NOT NULL,
    parameters      jsonb NOT NULL,
    failure_policy  text NOT NULL,
    result_data     jsonb,
    error_details   jsonb,
    replay_of       text REFERENCES app.jobs (job_id),
    submitted_by    text,
    traceparent     text,
    hints           integer NOT NULL DEFAULT 0,   -- how often the sweeper has sent this job's message again
    next_hint_at    timestamptz NOT NULL DEFAULT now() + interval '60 seconds',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    UNIQUE (fingerprint, run)
);

-- one active run of a fingerprint at a time
CREATE UNIQUE INDEX jobs_one_active_run ON app.jobs (fingerprint) WHERE status IN ('queued', 'processing');
CREATE INDEX jobs_newest ON app.jobs (created_at DESC, job_id DESC);
CREATE INDEX jobs_by_status ON app.jobs (status, created_at DESC, job_id DESC);
CREATE INDEX jobs_by_type ON app.jobs (job_type, created_at DESC, job_id DESC);

CREATE TABLE app.stages (
    job_id      text NOT NULL REFERENCES app.jobs (job_id),
    stage       integer NOT NULL,
    name        text NOT NULL,
    task_type   text NOT NULL,
    runs_on     text NOT NULL,
    total       integer NOT NULL,
    remaining   integer NOT NULL CHECK (remaining >= 0),  -- tasks that have not ended; who takes it to 0 sends StageComplete
    failed      integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (job_id, stage)
) WITH (fillfactor = 50);

CREATE TABLE app.tasks (
    task_id               text PRIMARY KEY,
    job_id                text NOT NULL REFERENCES app.jobs (job_id),
    job_type              text NOT NULL,
    task_type             text NOT NULL,
    stage                 integer NOT NULL,
    task_index            integer NOT NULL,
    runs_on               text NOT NULL,
    status                text NOT NULL DEFAULT 'pending',
    parameters            jsonb NOT NULL,
    attempt               integer NOT NULL DEFAULT 0,   -- the fencing token: raised by every claim
    failures              integer NOT NULL DEFAULT 0,   -- counts against max_attempts
    interruptions         integer NOT NULL DEFAULT 0,   -- does not
    max_attempts          integer NOT NULL DEFAULT 3,
    timeout_seconds       double precision,
    callback_url          text,
    result_data           jsonb,
    error_details         jsonb,
    progress              jsonb,
    progress_at           timestamptz,
    lease_owner           text,
    lease_expires_at      timestamptz,
    claim_key             uuid,                         -- names one claim call, so that its answer can be asked for again
    execute_after         timestamptz,                  -- not before, after a failure
    checkpoint_phase      integer,
    checkpoint_data       jsonb,
    checkpoint_cursor     jsonb,
    checkpoint_artifacts  jsonb,
    checkpoint_version    integer,
    checkpoint_updated_at timestamptz,
    traceparent           text,
    hints                 integer NOT NULL DEFAULT 0,
    next_hint_at          timestamptz NOT NULL DEFAULT now() + interval '60 seconds',
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    started_at            timestamptz,
    finished_at           timestamptz,
    UNIQUE (job_id, stage, task_index),
    CHECK ((status = 'processing') = (lease_expires_at IS NOT NULL))
) WITH (fillfactor = 80);

CREATE INDEX tasks_leases ON app.tasks (lease_expires_at) WHERE status = 'processing';
CREATE INDEX tasks_waiting ON app.tasks (next_hint_at) WHERE status IN ('pending', 'queued');

CREATE TABLE app.task_attempts (
    task_id       text NOT NULL,  -- of app.tasks: written only by the statement that ends the attempt
    attempt       integer NOT NULL,
    worker_id     text NOT NULL,
    outcome       text NOT NULL CHECK (outcome IN ('completed', 'failed', 'interrupted', 'cancelled', 'lease_expired')),
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL DEFAULT now(),
    error_details jsonb,
    reason        text,
    PRIMARY KEY (task_id, attempt)
);

CREATE TABLE app.task_items (
    task_id  text NOT NULL REFERENCES app.tasks (task_id) ON DELETE CASCADE,
    phase    integer NOT NULL,
    item_key text NOT NULL,
    data     jsonb,
    PRIMARY KEY (task_id, phase, item_key)
);

CREATE TABLE app.outbox (
    entry_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel      text NOT NULL,
    message      jsonb NOT NULL,
    job_id       text NOT NULL,
    task_id      text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    available_at timestamptz NOT NULL DEFAULT now(),  -- not to be sent before, or held by a relay until
    tries        integer NOT NULL DEFAULT 0,
    last_error   text,
    sent_at      timestamptz,
    given_up_at  timestamptz
);

CREATE INDEX outbox_due ON app.outbox (channel, available_at) WHERE sent_at IS NULL AND given_up_at IS NULL;
CREATE INDEX outbox_unsent_task ON app.outbox (task_id) WHERE sent_at IS NULL AND given_up_at IS NULL;
CREATE INDEX outbox_job ON app.outbox (job_id);

CREATE TABLE app.sweeper (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    last_run_at timestamptz,
    last_run_by text,
    last_report jsonb,
    passes      bigint NOT NULL DEFAULT 0
);
INSERT INTO app.sweeper DEFAULT VALUES;
