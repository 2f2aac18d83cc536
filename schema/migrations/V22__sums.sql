-- Sums of what jobs cost, kept as attempts end.

-- What runs for a tenant, newest first, without a look at what runs for others.
DROP INDEX job_leased;
CREATE INDEX job_running ON job (tenant, number) WHERE state IN ('running', 'cancelling');
-- A tenant's dead letters, newest first.
CREATE INDEX job_dead ON job (tenant, number) WHERE state = 'failed' AND part_of IS NULL;

ALTER TABLE attempt
    -- To what it is booked since it ended: to the job whose chunk it made, or to its own. The hour in which that was recorded, or
    -- '-infinity' where it is not there. Null: it has not ended, or had ended before this column, and is booked after it.
    ADD COLUMN booked_hour     timestamptz,
    ADD COLUMN booked_tenant   text,
    ADD COLUMN booked_queue    text,
    ADD COLUMN booked_scenario text,
    -- Whether it is the one by which its job is counted. A job is counted by attempts of its own only: it has one before it has chunks.
    ADD COLUMN booked_job      boolean NOT NULL DEFAULT false;

-- What attempts used, by the hour and by the day (in UTC) in which the jobs were recorded that they are booked to. Without rounding, so
-- that what was added can be taken away again.
CREATE TABLE cost_sum (
    span     text NOT NULL CHECK (span IN ('hour', 'day')),
    -- When it begins.
    at       timestamptz NOT NULL,
    -- Empty for jobs without one.
    tenant   text NOT NULL,
    queue    text NOT NULL,
    scenario text NOT NULL,
    -- Of what attempts cost; empty for those without a cost.
    currency text NOT NULL,
    jobs     bigint NOT NULL,
    attempts bigint NOT NULL,
    -- Attempts of which somebody told what they used; of these, those with their energy, and those with a cost.
    measured bigint NOT NULL,
    metered  bigint NOT NULL,
    priced   bigint NOT NULL,
    cost     numeric NOT NULL,
    cpu_ms   numeric NOT NULL,
    -- Peak memory times wall time.
    byte_ms  numeric NOT NULL,
    wall_ms  numeric NOT NULL,
    joules   numeric NOT NULL,
    PRIMARY KEY (span, at, tenant, queue, scenario, currency)
) WITH (fillfactor = 70);

-- What is to be added to these sums: whoever ends or removes attempts adds it and waits for nobody; the leader sums it up. A sum is that
-- of both tables.
CREATE TABLE cost_change (
    at       timestamptz NOT NULL,
    tenant   text NOT NULL,
    queue    text NOT NULL,
    scenario text NOT NULL,
    currency text NOT NULL,
    jobs     bigint NOT NULL,
    attempts bigint NOT NULL,
    measured bigint NOT NULL,
    metered  bigint NOT NULL,
    priced   bigint NOT NULL,
    cost     numeric NOT NULL,
    cpu_ms   numeric NOT NULL,
    byte_ms  numeric NOT NULL,
    wall_ms  numeric NOT NULL,
    joules   numeric NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- One row. Attempts that had ended before there were sums: the leader books those of the jobs after this one. Null: none is left.
CREATE TABLE cost_booking (after uuid);
INSERT INTO cost_booking
    SELECT CASE WHEN EXISTS (SELECT FROM attempt) THEN '00000000-0000-0000-0000-000000000000'::uuid END;

-- With the rights of the tables' owner: whoever ends attempts meanwhile may not have rights on new tables yet.
CREATE FUNCTION book_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    is_own boolean;
BEGIN
    SELECT date_trunc('hour', whole.created_at, 'UTC'), whole.tenant, whole.queue, whole.scenario, maker.part_of IS NULL
        INTO NEW.booked_hour, NEW.booked_tenant, NEW.booked_queue, NEW.booked_scenario, is_own
        FROM job AS maker JOIN job AS whole ON whole.id = coalesce(maker.part_of, maker.id) WHERE maker.id = NEW.job;
    IF NOT FOUND THEN
        NEW.booked_hour := '-infinity';
        RETURN NEW;
    END IF;
    -- Whoever ends attempts holds the row of their job: no two of one job are booked at the same time.
    NEW.booked_job := is_own AND NOT EXISTS (SELECT FROM attempt WHERE job = NEW.job AND attempt <> NEW.attempt AND booked_job);
    RETURN NEW;
END
$$;
CREATE TRIGGER attempt_booked BEFORE INSERT OR UPDATE ON attempt
    FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL AND NEW.booked_hour IS NULL) EXECUTE FUNCTION book_attempt();

-- Adds what the attempts `these` used, as often as the argument says.
CREATE FUNCTION note_cost() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    times integer := TG_ARGV[0]::integer;
BEGIN
    INSERT INTO cost_change (at, tenant, queue, scenario, currency, jobs, attempts, measured, metered, priced,
                             cost, cpu_ms, byte_ms, wall_ms, joules)
        SELECT booked_hour, coalesce(booked_tenant, ''), booked_queue, booked_scenario,
               CASE WHEN these.cost IS NULL THEN '' ELSE coalesce(these.currency, '') END,
               times * count(*) FILTER (WHERE booked_job), times * count(*), times * count(usage),
               times * count(usage ->> 'energy_joules'), times * count(*) FILTER (WHERE usage IS NOT NULL AND these.cost IS NOT NULL),
               times * coalesce(sum(these.cost::numeric), 0), times * coalesce(sum((usage ->> 'cpu_ms')::numeric), 0),
               times * coalesce(sum((usage ->> 'peak_memory_bytes')::numeric * (usage ->> 'wall_ms')::numeric), 0),
               times * coalesce(sum((usage ->> 'wall_ms')::numeric), 0),
               times * coalesce(sum((usage ->> 'energy_joules')::numeric), 0)
        FROM these WHERE booked_hour > '-infinity' GROUP BY 1, 2, 3, 4, 5;
    RETURN NULL;
END
$$;
CREATE TRIGGER attempt_cost_begun AFTER INSERT ON attempt REFERENCING NEW TABLE AS these
    FOR EACH STATEMENT EXECUTE FUNCTION note_cost('1');
CREATE TRIGGER attempt_cost_before AFTER UPDATE ON attempt REFERENCING OLD TABLE AS these
    FOR EACH STATEMENT EXECUTE FUNCTION note_cost('-1');
CREATE TRIGGER attempt_cost_after AFTER UPDATE ON attempt REFERENCING NEW TABLE AS these
    FOR EACH STATEMENT EXECUTE FUNCTION note_cost('1');
CREATE TRIGGER attempt_cost_gone AFTER DELETE ON attempt REFERENCING OLD TABLE AS these
    FOR EACH STATEMENT EXECUTE FUNCTION note_cost('-1');
