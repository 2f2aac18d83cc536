-- The account that runs the dispatcher need not own the tables: partitions are made with the rights of whoever does.
CREATE OR REPLACE FUNCTION make_event_months(ahead integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    first timestamp;
    name text;
    made integer := 0;
BEGIN
    -- Whoever may call it may not fill the catalog with partitions.
    FOR i IN 0..least(ahead, 12) LOOP
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
-- Nobody else's tables or functions stand in for those that it names.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION make_event_months(integer) SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION make_event_months(integer) FROM PUBLIC;
