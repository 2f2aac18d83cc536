-- Jobs that ended long ago are forgotten, and months whose events are all gone.

ALTER TABLE purged
    -- How it had ended: whoever waits for one that completed waits no more. Null for those from before this column: dead letters.
    ADD COLUMN state text;

-- The oldest ends first.
CREATE INDEX job_forgettable ON job (ended_at)
    WHERE part_of IS NULL AND state IN ('completed', 'failed', 'cancelled', 'rejected');

-- Drops the months of events that ended `kept` ago and have no event left. With the rights of the tables' owner, and
-- therefore nothing that still has a row in it.
CREATE FUNCTION drop_event_months(kept interval) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month record;
    has_events boolean;
    dropped integer := 0;
BEGIN
    -- Whoever reads the history for long is waited for another time.
    SET LOCAL lock_timeout = '2s';
    FOR month IN
        SELECT c.oid::regclass AS name FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
        WHERE inhparent = 'event'::regclass AND c.relname ~ '^event_\d{4}_\d{2}$'
              AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
                  < now() - greatest(kept, interval '0')
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', month.name) INTO has_events;
        IF NOT has_events THEN
            EXECUTE format('DROP TABLE %s', month.name);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    RETURN dropped;
END
$$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION drop_event_months(interval) SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION drop_event_months(interval) FROM PUBLIC;
