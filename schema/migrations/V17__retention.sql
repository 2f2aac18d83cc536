-- Jobs that ended long ago are forgotten, and months whose events are all gone.

ALTER TABLE purged
    -- How it had ended: whoever waits for one that completed waits no more. Null for those from before this column: dead letters.
    ADD COLUMN state text;

-- The oldest ends first. Dead letters apart: kept for ever, they would all lie before what may go.
CREATE INDEX job_forgettable ON job (ended_at)
    WHERE part_of IS NULL AND state IN ('completed', 'cancelled', 'rejected');
CREATE INDEX job_forgettable_dead ON job (ended_at)
    WHERE part_of IS NULL AND state = 'failed';

-- Drops the first month of events that ended `kept` ago and has no event left, and answers how many it dropped. With the rights of the
-- tables' owner, and therefore nothing that still has a row in it.
CREATE FUNCTION drop_event_months(kept interval) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month record;
    has_events boolean;
    empty regclass;
BEGIN
    -- All the reading goes before the drop, which keeps everybody from the whole history until the transaction ends.
    FOR month IN
        SELECT c.oid::regclass AS name FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
        WHERE inhparent = 'event'::regclass AND c.relname ~ '^event_\d{4}_\d{2}$'
              AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
                  < now() - greatest(kept, interval '0')
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', month.name) INTO has_events;
        IF NOT has_events THEN
            empty := month.name;
            EXIT;
        END IF;
    END LOOP;
    IF empty IS NULL THEN
        RETURN 0;
    END IF;
    -- Whoever writes an event waits behind it for so long at most. Whoever reads the history for longer goes first: the month
    -- goes another time.
    SET LOCAL lock_timeout = '200ms';
    EXECUTE format('DROP TABLE %s', empty);
    RETURN 1;
EXCEPTION
    WHEN lock_not_available THEN
        RETURN 0;
END
$$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION drop_event_months(interval) SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION drop_event_months(interval) FROM PUBLIC;
