-- Tenants take turns by weight where their jobs wait for the same workers.

ALTER TABLE job
    -- When the leader last dealt it a turn: it was published before what waits in its queue.
    ADD COLUMN turn_at timestamptz;
-- Found tenant by tenant, without a look at the jobs between. One that came without an id cannot be published twice, and one that is
-- paused waits for no turn.
CREATE INDEX job_turns ON job (queue, priority, pool, tenant, number)
    WHERE tenant IS NOT NULL AND state = 'queued' AND fingerprint IS NULL AND NOT paused;
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

-- What the published files of tenants take.

ALTER TABLE job
    -- Bytes of its files that count against its tenant's storage; null when none do.
    ADD COLUMN stored_bytes bigint,
    DROP CONSTRAINT job_held_by_check,
    ADD CONSTRAINT job_held_by_check CHECK (held_by IN ('running', 'queued', 'rate', 'storage'));
UPDATE job SET stored_bytes =
    (SELECT coalesce(sum((artifact ->> 'size_bytes')::bigint
                         + coalesce((SELECT sum((file ->> 'size_bytes')::bigint)
                                     FROM jsonb_array_elements(artifact -> 'files') AS file), 0)), 0)
     FROM jsonb_array_elements(manifest -> 'artifacts') AS artifact)
    WHERE state = 'completed' AND tenant IS NOT NULL AND part_of IS NULL AND manifest IS NOT NULL;
ALTER TABLE tenant
    -- The sum of its jobs' `stored_bytes`, but for the changes that are not added yet.
    ADD COLUMN stored_bytes bigint NOT NULL DEFAULT 0;
UPDATE tenant SET stored_bytes = coalesce((SELECT sum(stored_bytes) FROM job WHERE job.tenant = tenant.name), 0);

-- Changes of that sum: whoever completes or removes a job adds one and waits for nobody; the leader sums them up.
CREATE TABLE stored_change (
    tenant text NOT NULL,
    bytes  bigint NOT NULL
);
-- What tenants published that have no row yet waits for it here.
INSERT INTO stored_change (tenant, bytes)
    SELECT tenant, sum(stored_bytes)::bigint FROM job
    WHERE stored_bytes IS NOT NULL AND NOT EXISTS (SELECT FROM tenant WHERE tenant.name = job.tenant)
    GROUP BY tenant;
CREATE FUNCTION note_stored() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.tenant IS NOT NULL AND OLD.stored_bytes IS NOT NULL THEN
        INSERT INTO stored_change (tenant, bytes) VALUES (OLD.tenant, -OLD.stored_bytes);
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.tenant IS NOT NULL AND NEW.stored_bytes IS NOT NULL THEN
        INSERT INTO stored_change (tenant, bytes) VALUES (NEW.tenant, NEW.stored_bytes);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER job_stored AFTER UPDATE OF stored_bytes ON job
    FOR EACH ROW WHEN (OLD.stored_bytes IS DISTINCT FROM NEW.stored_bytes) EXECUTE FUNCTION note_stored();
CREATE TRIGGER job_no_longer_stored AFTER DELETE ON job
    FOR EACH ROW WHEN (OLD.stored_bytes IS NOT NULL) EXECUTE FUNCTION note_stored();
