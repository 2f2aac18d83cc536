-- Tenants with their limits, keys with scopes that rotate without downtime, and an audit that only grows.

ALTER TABLE tenant
    -- Its share where tenants want the same slots.
    ADD COLUMN weight           integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
    -- Limits; null for none.
    ADD COLUMN max_queued       bigint CHECK (max_queued >= 0),
    ADD COLUMN max_running      bigint CHECK (max_running >= 0),
    ADD COLUMN max_cpu_cores    double precision CHECK (max_cpu_cores >= 0),
    ADD COLUMN max_storage_mb   bigint CHECK (max_storage_mb >= 0),
    ADD COLUMN requests_per_sec double precision CHECK (requests_per_sec > 0),
    -- The RabbitMQ user whose messages are this tenant's.
    ADD COLUMN amqp_user        text UNIQUE,
    -- Since when its keys open nothing.
    ADD COLUMN disabled_at      timestamptz;

-- Whoever is named by a job or a schedule that is there: so far a name was enough.
INSERT INTO tenant (name) SELECT DISTINCT tenant FROM job WHERE tenant IS NOT NULL ON CONFLICT DO NOTHING;
INSERT INTO tenant (name) SELECT DISTINCT job ->> 'tenant' FROM schedule
    WHERE job ->> 'tenant' NOT LIKE '%{%' ON CONFLICT DO NOTHING;

ALTER TABLE api_key
    -- Rights that the key has of those of its role; null for all of them.
    ADD COLUMN scopes     text[],
    -- Grows when the key is rotated: keys of one name are one owner's.
    ADD COLUMN generation integer NOT NULL DEFAULT 1,
    -- Who made it.
    ADD COLUMN created_by text;
-- A tenant chooses the names of its keys without seeing those of others.
ALTER TABLE api_key DROP CONSTRAINT api_key_name_key;
CREATE UNIQUE INDEX api_key_owner ON api_key (coalesce(tenant, ''), name, generation);

ALTER TABLE audit
    -- Whose key did it; null for a key of the whole pool.
    ADD COLUMN actor_tenant text,
    -- Whose thing it was done to; null where that is the whole pool's, or that of several.
    ADD COLUMN tenant       text,
    -- Where the request came from; null for what was done beside the API.
    ADD COLUMN address      text,
    ADD COLUMN before       jsonb,
    ADD COLUMN after        jsonb;
CREATE INDEX audit_tenant ON audit (tenant, id) WHERE tenant IS NOT NULL;

CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit only grows: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION keep_audit();

ALTER TABLE schedule
    -- Whose key made it: its jobs are this tenant's.
    ADD COLUMN tenant text REFERENCES tenant (name);
ALTER TABLE schedule DROP CONSTRAINT schedule_name_key;
CREATE UNIQUE INDEX schedule_owner ON schedule (coalesce(tenant, ''), name);

-- Whose job it was: to others its id is that of a job nobody knows.
ALTER TABLE purged ADD COLUMN tenant text;
