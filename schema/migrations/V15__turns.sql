-- Tenants take turns by weight where their jobs wait for the same workers.

ALTER TABLE job
    -- When the leader last dealt it a turn: it was published before what waits in its queue.
    ADD COLUMN turn_at timestamptz;
-- Found tenant by tenant, without a look at the jobs between. One that came without an id cannot be published twice.
CREATE INDEX job_turns ON job (queue, priority, pool, tenant, number)
    WHERE tenant IS NOT NULL AND state = 'queued' AND fingerprint IS NULL;
CREATE INDEX job_turn_dealt ON job (queue, priority, pool, tenant) WHERE turn_at IS NOT NULL AND state = 'queued';

-- What tenants had, where several wait: one row for each work queue and tenant, while they do. The leader writes it.
CREATE TABLE tenant_turn (
    queue     text NOT NULL,
    priority  text NOT NULL,
    pool      text NOT NULL,
    tenant    text NOT NULL,
    -- In core seconds over its weight.
    had       double precision NOT NULL,
    weight    integer NOT NULL,
    -- Whether it waits for a turn.
    waits     boolean NOT NULL,
    -- Its jobs that were dealt a turn and had not started when the leader looked.
    ahead     bigint NOT NULL,
    looked_at timestamptz NOT NULL,
    PRIMARY KEY (queue, priority, pool, tenant)
) WITH (fillfactor = 50);
