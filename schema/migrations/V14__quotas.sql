-- What tenants may have at a time, and the jobs that wait because of it.

ALTER TABLE tenant
    -- When the jobs that came by AMQP so far are paid for at the tenant's rate.
    ADD COLUMN paced_until timestamptz;

ALTER TABLE job
    -- Why its tenant's quota holds it back: too much runs, too many wait, they came too fast. Counts while it is delayed; on a
    -- queued one that came without an id it says what becomes of it at its claim.
    ADD COLUMN held_by text CHECK (held_by IN ('running', 'queued', 'rate')),
    -- Since when it was first held back at its turn, until its next attempt begins.
    ADD COLUMN held_at timestamptz;
CREATE INDEX job_held ON job (tenant, held_by, number) WHERE held_by IS NOT NULL;
CREATE INDEX job_let_go ON job (tenant) WHERE held_at IS NOT NULL AND state = 'queued';
CREATE INDEX job_tenant_waiting ON job (tenant)
    WHERE tenant IS NOT NULL AND state IN ('blocked', 'delayed', 'queued');
