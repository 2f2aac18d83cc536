-- The ledger: one row per job with its present state, one per attempt, and everything that happened.
--
-- A job's row changes four to six times in its life and is wide, so indexes are few and mostly partial: an update that
-- touches no indexed column stays on its page. `lease_until` and `progress`, which change every second, are in none.

CREATE TABLE job (
    id                uuid PRIMARY KEY,
    number            bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    state             text NOT NULL CHECK (state IN
                        ('blocked', 'delayed', 'queued', 'running', 'cancelling',
                         'completed', 'failed', 'cancelled', 'rejected')),
    queue             text NOT NULL,
    priority          text NOT NULL,
    pool              text NOT NULL,
    scenario          text NOT NULL DEFAULT '',
    tenant            text,
    labels            jsonb NOT NULL DEFAULT '{}',
    -- The job in canonical form; null when the body could not be read.
    spec              jsonb,
    -- The body as the client sent it, published again verbatim. Only the first 4 KiB of a rejected one are kept.
    body              bytea NOT NULL,
    content_type      text NOT NULL,
    traceparent       text,
    -- Stands for a message that came without an id; null for all others.
    fingerprint       text,
    -- Whether the tap has seen it: a claim may overtake the tap, and then makes the row.
    tapped            boolean NOT NULL,
    attempt           integer NOT NULL DEFAULT 0,
    failures          integer NOT NULL DEFAULT 0,
    max_retries       integer NOT NULL,
    losses            integer NOT NULL DEFAULT 0,
    -- Who holds the lease in running and cancelling; afterwards who held it last.
    owner_worker      text,
    owner_incarnation uuid,
    -- The last attempt that may publish its output, or may have published it.
    consent           integer,
    last_cause        text,
    -- Who gives the job back if its worker dies: broker or ledger.
    custody           text CHECK (custody IN ('broker', 'ledger')),
    lease_until       timestamptz,
    progress          jsonb,
    -- The ledger publishes the job at or after this time; null when there is nothing to publish. Cleared after the
    -- broker's confirm, and only if it still has the value that was read.
    publish_due       timestamptz,
    -- When the ledger last published it.
    published_at      timestamptz,
    failure           jsonb,
    -- Why it is what it is, in words.
    reason            text,
    -- Everything wrong with a rejected job.
    faults            jsonb,
    manifest          jsonb,
    created_at        timestamptz NOT NULL DEFAULT now(),
    -- When it entered its present state.
    state_since       timestamptz NOT NULL DEFAULT now(),
    -- When its last attempt began.
    started_at        timestamptz,
    ended_at          timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- Lists and counts of what has not ended, and the sweep over leases. Spell the predicate out in a query, or the planner
-- cannot see that it applies.
CREATE INDEX job_waiting ON job (number) WHERE state IN ('blocked', 'delayed', 'queued');
CREATE INDEX job_leased ON job (id) WHERE state IN ('running', 'cancelling');
-- Dead letters and other unhappy ends. What completed is the bulk and is found by walking the numbers down.
CREATE INDEX job_unhappy ON job (number) WHERE state IN ('failed', 'cancelled', 'rejected');
CREATE INDEX job_outbox ON job (publish_due) WHERE publish_due IS NOT NULL;
CREATE INDEX job_fingerprint ON job (fingerprint, number) WHERE fingerprint IS NOT NULL;
CREATE INDEX job_tenant ON job (tenant, number) WHERE tenant IS NOT NULL;
CREATE INDEX job_labels ON job USING gin (labels jsonb_path_ops) WHERE labels <> '{}'::jsonb;
CREATE INDEX job_created ON job USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE attempt (
    job         uuid NOT NULL,
    attempt     integer NOT NULL,
    worker      text NOT NULL,
    incarnation uuid NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    -- finished, failed, rejected, released, cancelled, lapsed
    outcome     text,
    failure     jsonb,
    usage       jsonb,
    PRIMARY KEY (job, attempt)
) WITH (fillfactor = 80);

-- What happened, append only, one partition a month.
CREATE TABLE event (
    at      timestamptz NOT NULL DEFAULT now(),
    -- Orders what happened at the same time.
    seq     bigint GENERATED ALWAYS AS IDENTITY,
    job     uuid NOT NULL,
    -- The input's name, such as claim; `recorded` is the first.
    kind    text NOT NULL,
    -- The state after it.
    state   text NOT NULL,
    attempt integer NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}'
) PARTITION BY RANGE (at);
CREATE INDEX event_job ON event (job);
CREATE TABLE event_other PARTITION OF event DEFAULT;

-- Makes the partitions of this month and the `ahead` months after it. Months are in UTC, whatever the session's zone.
CREATE FUNCTION make_event_months(ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    first timestamp;
    name text;
    made integer := 0;
BEGIN
    FOR i IN 0..ahead LOOP
        first := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i);
        name := 'event_' || to_char(first, 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF event FOR VALUES FROM (%L) TO (%L)',
                           name, first AT TIME ZONE 'UTC', (first + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END
$$;
SELECT make_event_months(2);

CREATE TABLE worker (
    id          text PRIMARY KEY,
    incarnation uuid NOT NULL,
    -- The last heartbeat's number within the incarnation.
    seq         bigint NOT NULL,
    host        text NOT NULL,
    version     text NOT NULL,
    -- ready, draining, stopped; lost when it fell silent.
    state       text NOT NULL,
    pools       text[] NOT NULL,
    capacity    jsonb NOT NULL,
    ability     jsonb NOT NULL,
    running     uuid[] NOT NULL,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE tenant (
    name       text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Keys of the HTTP API. The key itself is never stored.
CREATE TABLE api_key (
    id           uuid PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    -- The part of the key by which its row is found; not secret.
    prefix       text NOT NULL UNIQUE,
    -- sha256 of the key.
    hash         bytea NOT NULL,
    role         text NOT NULL CHECK (role IN ('viewer', 'submitter', 'operator', 'admin')),
    -- Sees and submits only this tenant's jobs; null for all.
    tenant       text REFERENCES tenant (name),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

-- Who did what through the API.
CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL,
    -- What it was done to: a job, a worker, a key.
    subject text NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_at ON audit (at);

-- The last lines of each job's tool.
CREATE TABLE log_line (
    job     uuid NOT NULL,
    attempt integer NOT NULL,
    seq     bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    line    text NOT NULL,
    PRIMARY KEY (job, attempt, seq)
);

-- Messages on the service queues that could not be understood, kept so that nothing vanishes.
CREATE TABLE stray (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    -- The queue it came from.
    source     text NOT NULL,
    message_id text,
    -- The first 64 KiB.
    body       bytea NOT NULL,
    error      text NOT NULL
);
