-- Who is there before the jobs: tenants, keys, schedules, workers, and the months of the history.
-- Reads the settings `seed.*` of its session; `r(n, k, m)` is a number below m that is always the same for n and k.

CREATE FUNCTION pg_temp.r(n bigint, k bigint, m integer) RETURNS integer LANGUAGE sql IMMUTABLE
    AS 'SELECT ((hashint8extended(n, k) & 2147483647) % m)::integer';
CREATE FUNCTION pg_temp.setting(name text) RETURNS bigint LANGUAGE sql STABLE
    AS $$SELECT current_setting('seed.' || name)::bigint$$;
-- Nobody sends heartbeats: what they would move ahead, lasts for `seed.hold` hours, so that nobody is taken for lost.
CREATE FUNCTION pg_temp.ahead() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$SELECT now() + pg_temp.setting('hold') * interval '1 hour'$$;
CREATE FUNCTION pg_temp.worker_name(n integer) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$SELECT 'seed-' || lpad(n::text, 5, '0')$$;
CREATE FUNCTION pg_temp.tenant_name(n integer) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$SELECT 'seed-tenant-' || n$$;
-- An id of version 7 that was made at that time.
CREATE FUNCTION pg_temp.id_of(n bigint, at timestamptz) RETURNS uuid LANGUAGE sql STABLE
    AS $$SELECT overlay(overlay(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
                        || substr(md5(current_setting('seed.salt') || n), 1, 20) placing '7' from 13 for 1)
                        placing 'a' from 17 for 1)::uuid$$;

-- What is alike in all of them; made from the types of this version.
CREATE TEMP TABLE template AS
    SELECT current_setting('seed.spec')::jsonb AS spec, current_setting('seed.manifest')::jsonb AS manifest,
           current_setting('seed.manifest')::jsonb #> '{artifacts,0}' AS artifact, current_setting('seed.progress')::jsonb AS progress,
           current_setting('seed.failure')::jsonb AS failure, current_setting('seed.usage')::jsonb AS usage;
ANALYZE template;
CREATE TEMP TABLE seeded (id uuid PRIMARY KEY);

-- A ledger that has been there for so long has a partition for each of its months; as the dispatcher makes them.
DO $$
DECLARE
    month timestamp := date_trunc('month', (now() - pg_temp.setting('days') * interval '1 day') AT TIME ZONE 'UTC');
    name text;
BEGIN
    WHILE month < now() AT TIME ZONE 'UTC' LOOP
        name := 'event_' || to_char(month, 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF event FOR VALUES FROM (%L) TO (%L)',
                           name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        END IF;
        month := month + interval '1 month';
    END LOOP;
END
$$;

INSERT INTO tenant (name, weight) SELECT pg_temp.tenant_name(n), 1 + n % 3 FROM generate_series(0, 7) AS n
    ON CONFLICT DO NOTHING;

-- Nobody knows their texts.
INSERT INTO api_key (id, name, prefix, hash, role, tenant, created_at, revoked_at, created_by)
    SELECT gen_random_uuid(), 'seed-key-' || n, 'seed' || md5(current_setting('seed.salt') || n), sha256(gen_random_uuid()::text::bytea),
           (ARRAY['viewer', 'submitter', 'operator', 'admin'])[1 + n % 4],
           CASE WHEN n % 3 > 0 THEN pg_temp.tenant_name(n % 8) END, now() - n * interval '3 hours',
           CASE WHEN n % 5 = 0 THEN now() - n * interval '1 hour' END, 'loadtest seed'
    FROM generate_series(1, 200) AS n ON CONFLICT DO NOTHING;

-- The pool's and, of the same names, those of tenants. Paused, so that they make nothing.
INSERT INTO schedule (name, tenant, cron, zone, job, missed, overlap, paused, created_by, next_due)
    SELECT 'seed-schedule-' || n, name, '0 ' || n % 24 || ' * * *', 'UTC', jsonb_build_object('scenario', '720p30-h264'),
           'skip', 'skip', true, 'loadtest seed', date_trunc('day', now()) + interval '1 day' + n % 24 * interval '1 hour'
    FROM generate_series(1, 25) AS n
    CROSS JOIN (SELECT NULL AS name UNION ALL SELECT pg_temp.tenant_name(t) FROM generate_series(0, 7) AS t) AS owner ON CONFLICT DO NOTHING;

INSERT INTO audit (at, actor, actor_tenant, action, subject, tenant, address, detail)
    SELECT now() - (20000 - n) * interval '2 minutes', 'seed-key-' || n % 200, t.name,
           (ARRAY['cancel', 'pause', 'resume', 'redrive', 'drain'])[1 + n % 5], 'seed-' || n, t.name, '192.0.2.' || n % 250,
           jsonb_build_object('reason', 'seeded')
    FROM generate_series(1, least(20000, pg_temp.setting('jobs'))) AS n
    CROSS JOIN LATERAL (SELECT CASE WHEN n % 3 > 0 THEN pg_temp.tenant_name((n % 8)::integer) END AS name) AS t ORDER BY n;

-- Of a hundred 94 are ready, 2 drain, 2 have stopped and 2 are lost; each tenth has a device.
INSERT INTO worker (id, incarnation, seq, host, version, state, pools, capacity, ability, running, first_seen, last_seen)
    SELECT pg_temp.worker_name(n), gen_random_uuid(), 1000 + n, 'host-' || n / 4, '0.1.0', state,
           CASE WHEN n % 10 = 0 THEN '{cpu,gpu}'::text[] ELSE '{cpu}'::text[] END,
           current_setting('seed.capacity')::jsonb, current_setting('seed.ability')::jsonb, '{}',
           now() - interval '20 days' - n * interval '1 minute',
           CASE WHEN state IN ('stopped', 'lost') THEN now() - interval '5 hours' ELSE pg_temp.ahead() END
    FROM generate_series(1, pg_temp.setting('workers')::integer) AS n
    CROSS JOIN LATERAL (SELECT CASE n % 100 WHEN 96 THEN 'draining' WHEN 97 THEN 'draining' WHEN 98 THEN 'stopped'
                                            WHEN 99 THEN 'stopped' WHEN 50 THEN 'lost' WHEN 51 THEN 'lost'
                                            ELSE 'ready' END AS state) AS s
    ON CONFLICT (id) DO NOTHING;
