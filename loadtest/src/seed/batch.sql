-- Jobs `seed.low` to `seed.high` of `seed.jobs`, with their attempts, history and logs, in one transaction.
-- The jobs were handed in evenly over `seed.days`; most of the last quarter waits still, but for live and urgent ones.

CREATE TEMP TABLE drawn ON COMMIT DROP AS
    SELECT n, n::float8 / pg_temp.setting('jobs') AS share,
           now() - (1 - n::float8 / pg_temp.setting('jobs')) * pg_temp.setting('days') * interval '1 day' AS created_at,
           CASE WHEN pg_temp.r(n, 1, 100) < 5 THEN 'live' WHEN pg_temp.r(n, 1, 100) < 75 THEN 'default' ELSE 'batch' END AS queue,
           CASE pg_temp.r(n, 2, 10) WHEN 0 THEN 'high' WHEN 8 THEN 'low' WHEN 9 THEN 'low' ELSE 'medium' END AS priority,
           CASE pg_temp.r(n, 3, 10) WHEN 0 THEN 'gpu' ELSE 'cpu' END AS pool,
           s.scenario, s.secs, s.limits,
           CASE WHEN pg_temp.r(n, 6, 12) < 8 THEN pg_temp.tenant_name(pg_temp.r(n, 6, 12)) END AS tenant,
           CASE WHEN pg_temp.r(n, 7, 10) = 0 THEN '{}'::jsonb
                ELSE jsonb_build_object('show', 's-' || pg_temp.r(n, 11, 400), 'env', CASE WHEN pg_temp.r(n, 12, 10) = 0 THEN 'test' ELSE 'prod' END)
           END AS labels,
           pg_temp.r(n, 8, 1000) AS fate, pg_temp.r(n, 9, greatest(pg_temp.setting('workers')::integer / 10, 1)) AS place,
           1 + least(pg_temp.r(n, 10, 60), pg_temp.r(n, 13, 60)) AS kind
    FROM generate_series(pg_temp.setting('low'), pg_temp.setting('high')) AS n
    JOIN LATERAL (SELECT (ARRAY['480p30-h264', '720p30-h264', '720p60-h264', '1080p30-h264', '1080p60-h264', '1080p30-h265',
                                '4K30-h265', '360p30-h264', '720p30-vp9', '1080p60-h265', '240p30-h264', '4K60-h264'])[1 + k] AS scenario,
                         20 + 25 * k + pg_temp.r(n, 15, 60) AS secs,
                         CASE pg_temp.r(n, 5, 20) WHEN 0 THEN '{"max_cpu_percent": 400, "max_memory_mb": 8192}'
                                                  WHEN 1 THEN '{"max_cpu_percent": 200}' WHEN 2 THEN '{"max_cpu_percent": 200, "max_memory_mb": 4096}'
                                                  ELSE '{}' END::jsonb AS limits
                  FROM (SELECT pg_temp.r(n, 4, 12) AS k) AS of) AS s ON true;

CREATE TEMP TABLE placed ON COMMIT DROP AS
    SELECT d.*, pg_temp.id_of(n, created_at) AS id,
           share > 0.74 AND queue <> 'live' AND priority <> 'high' AS is_behind,
           -- What does not wait long ends soon; the others in their order, the last of them now.
           CASE WHEN queue = 'live' OR priority = 'high' THEN created_at + (2 + pg_temp.r(n, 16, 30) + secs) * interval '1 second'
                ELSE now() - pg_temp.setting('days') * 0.97 * (1 - share / 0.74) * interval '1 day' END AS ends_at
    FROM drawn AS d;

CREATE TEMP TABLE made ON COMMIT DROP AS
    SELECT p.*,
           CASE WHEN is_behind AND fate < 80 OR NOT is_behind AND ends_at > now() THEN 'running'
                WHEN is_behind AND fate < 82 THEN 'cancelling'
                WHEN is_behind AND fate < 940 THEN 'queued'
                WHEN is_behind AND fate < 975 THEN 'delayed'
                WHEN is_behind THEN 'blocked'
                WHEN fate < 930 THEN 'completed' WHEN fate < 965 THEN 'failed' WHEN fate < 985 THEN 'cancelled'
                ELSE 'rejected' END AS state
    FROM placed AS p;
ALTER TABLE made ADD attempts integer, ADD worker text, ADD started_at timestamptz, ADD ended_at timestamptz;
UPDATE made SET
    attempts = CASE WHEN state IN ('running', 'cancelling', 'completed') THEN 1 + (fate % 10 = 3)::integer
                    WHEN state = 'failed' THEN 2 + fate % 3 WHEN state = 'cancelled' THEN fate % 2 ELSE 0 END,
    -- Those of the tenth with a device run what wants one. Who has stopped or is lost runs nothing.
    worker = pg_temp.worker_name(least(pg_temp.setting('workers')::integer,
        CASE WHEN pool = 'gpu' THEN CASE WHEN place % 10 = 5 THEN 10 * place + 10 ELSE greatest(10 * place, 10) END
             ELSE 10 * place + CASE WHEN place % 10 IN (5, 9) THEN 2 + fate % 4 ELSE 1 + fate % 9 END END)),
    ended_at = CASE WHEN state IN ('completed', 'failed', 'cancelled') THEN least(ends_at, now())
                    WHEN state = 'rejected' THEN created_at END,
    started_at = CASE WHEN state IN ('running', 'cancelling') THEN greatest(created_at, now() - fate % 80 * interval '3 seconds')
                      WHEN state IN ('completed', 'failed') THEN greatest(created_at, least(ends_at, now()) - secs * interval '1 second') END;
UPDATE made SET started_at = greatest(created_at, ended_at - interval '10 seconds') WHERE state = 'cancelled' AND attempts > 0;

INSERT INTO job (id, state, queue, priority, pool, scenario, tenant, labels, spec, body, content_type, tapped, attempt, failures,
                 max_retries, owner_worker, owner_incarnation, consent, last_cause, custody, lease_until, progress, publish_due,
                 published_at, failure, reason, faults, manifest, created_at, state_since, started_at, ended_at, dead_fingerprint,
                 stored_bytes, callback_url)
    SELECT m.id, m.state, m.queue, m.priority, m.pool, m.scenario, m.tenant, m.labels,
           CASE WHEN m.state <> 'rejected' THEN a.spec END, convert_to(a.spec::text, 'UTF8'), 'application/json', true, m.attempts,
           CASE WHEN m.state = 'failed' THEN m.attempts WHEN m.attempts > 1 THEN 1 ELSE 0 END,
           3, CASE WHEN m.attempts > 0 THEN m.worker END, CASE WHEN m.attempts > 0 THEN w.incarnation END,
           CASE WHEN m.state = 'completed' THEN m.attempts END,
           CASE WHEN m.state = 'failed' THEN b.failure ->> 'cause' END, 'broker',
           CASE WHEN m.state IN ('running', 'cancelling') THEN pg_temp.ahead() END,
           CASE WHEN m.state IN ('running', 'cancelling') THEN t.progress
                || jsonb_build_object('job', m.id, 'attempt', m.attempts, 'worker', m.worker, 'percent', m.fate % 99, 'eta_secs', m.secs) END,
           CASE WHEN m.state = 'delayed' THEN pg_temp.ahead() END,
           CASE WHEN m.state = 'queued' THEN pg_temp.ahead() WHEN m.attempts > 0 THEN m.created_at END,
           CASE WHEN m.state = 'failed' THEN b.failure END,
           CASE WHEN m.state = 'cancelled' THEN 'no longer wanted' WHEN m.state = 'failed' THEN b.failure ->> 'message' END,
           CASE WHEN m.state = 'rejected' THEN '[{"path": "parameters.bitrate", "code": "bad_value", "message": "a bitrate such as 6M is expected"}]'::jsonb END,
           CASE WHEN m.state = 'completed' THEN c.manifest END,
           m.created_at, coalesce(m.ended_at, m.started_at, m.created_at), m.started_at, m.ended_at,
           CASE WHEN m.state = 'failed' THEN left(md5('kind ' || m.kind), 16) END,
           CASE WHEN m.state = 'completed' AND m.tenant IS NOT NULL THEN 1000000 * m.secs END,
           CASE WHEN m.fate = 7 THEN 'https://callback.example/' || m.n END
    FROM made AS m CROSS JOIN template AS t
    LEFT JOIN worker AS w ON w.id = m.worker
    CROSS JOIN LATERAL (SELECT t.spec || jsonb_strip_nulls(jsonb_build_object(
        'id', m.id, 'scenario', m.scenario, 'queue', m.queue, 'priority', m.priority, 'pool', m.pool, 'tenant', m.tenant,
        'input', 'file:///media/in/' || m.n || '.mov', 'output', 'file:///media/out/' || m.n || '.mp4',
        'labels', m.labels, 'resource_limits', m.limits)) AS spec) AS a
    CROSS JOIN LATERAL (SELECT t.failure || jsonb_build_object(
        'cause', (ARRAY['input_missing', 'input_bad', 'timeout', 'oom', 'crash', 'verify_failed', 'stall', 'net_transient'])[1 + m.kind % 8],
        'message', 'the tool gave up in way ' || m.kind) AS failure) AS b
    CROSS JOIN LATERAL (SELECT t.manifest || jsonb_build_object(
        'job', m.id, 'attempt', m.attempts, 'worker', m.worker, 'at', m.ended_at, 'artifacts', jsonb_build_array(
            t.artifact || jsonb_build_object('url', 'file:///media/out/' || m.n || '.mp4', 'size_bytes', 1000000 * m.secs,
                                             'sha256', encode(sha256(m.n::text::bytea), 'hex')))) AS manifest) AS c
    ORDER BY m.n;

-- What became of each attempt: the last ended as its job did, those before it failed, but for one whose worker was lost.
INSERT INTO attempt (job, attempt, worker, incarnation, started_at, ended_at, outcome, failure, usage, cost, currency)
    SELECT m.id, a, m.worker, coalesce(w.incarnation, gen_random_uuid()), at, ended,
           CASE WHEN a < m.attempts AND m.state <> 'failed' THEN 'lapsed' WHEN m.state = 'completed' THEN 'finished'
                WHEN m.state IN ('failed', 'cancelled') THEN m.state END,
           CASE WHEN m.state = 'failed' THEN t.failure END,
           CASE WHEN is_measured THEN t.usage || jsonb_build_object(
               'wall_ms', m.secs * 1000, 'cpu_ms', m.secs * 1800, 'peak_memory_bytes', 300000000 + m.secs * 1000000) END,
           CASE WHEN is_measured THEN m.secs * 1800 / 3.6e6 * 0.04 END, CASE WHEN is_measured THEN 'EUR' END
    FROM made AS m CROSS JOIN template AS t
    LEFT JOIN worker AS w ON w.id = m.worker
    CROSS JOIN LATERAL generate_series(1, m.attempts) AS a
    CROSS JOIN LATERAL (SELECT m.started_at - (m.attempts - a) * interval '2 minutes' AS at,
        CASE WHEN a < m.attempts THEN m.started_at - (m.attempts - a) * interval '2 minutes' + interval '1 minute' ELSE m.ended_at END AS ended) AS times
    CROSS JOIN LATERAL (SELECT ended IS NOT NULL AND (a = m.attempts OR m.state = 'failed') AS is_measured) AS u;

-- What they are found by.
INSERT INTO job_text (number, tenant, text)
    SELECT job.number, job.tenant, lower(concat_ws(E'\n', job.spec ->> 'input', job.spec ->> 'output',
        'env:' || (m.labels ->> 'env'), 'show:' || (m.labels ->> 'show')))
    FROM made AS m JOIN job ON job.id = m.id WHERE job.spec IS NOT NULL ORDER BY job.number;

-- Failures as they were noted.
INSERT INTO failure (at, job, number, attempt, tenant, cause, retried, dead)
    SELECT a.ended_at, m.id, job.number, a.attempt, m.tenant,
           CASE a.outcome WHEN 'lapsed' THEN 'worker_lost' ELSE job.last_cause END, a.attempt < m.attempts, a.attempt = m.attempts
    FROM made AS m JOIN attempt AS a ON a.job = m.id JOIN job ON job.id = m.id WHERE a.outcome IN ('failed', 'lapsed')
    ORDER BY a.ended_at;

INSERT INTO event (at, job, kind, state, attempt, detail)
    SELECT at, id, kind, state, attempt, detail FROM (
        SELECT created_at AS at, id, 'recorded' AS kind,
               CASE WHEN state IN ('blocked', 'delayed', 'rejected') THEN state ELSE 'queued' END AS state, 0 AS attempt, '{}'::jsonb AS detail FROM made
        UNION ALL SELECT a.started_at, m.id, 'claim', 'running', a.attempt, jsonb_build_object('worker', a.worker)
            FROM made AS m JOIN attempt AS a ON a.job = m.id
        UNION ALL SELECT a.ended_at, m.id,
               CASE a.outcome WHEN 'lapsed' THEN 'lapse' WHEN 'cancelled' THEN 'cancel_done' ELSE a.outcome END,
               CASE WHEN a.attempt = m.attempts THEN m.state WHEN a.outcome = 'lapsed' THEN 'queued' ELSE 'delayed' END, a.attempt,
               jsonb_build_object('worker', a.worker)
            FROM made AS m JOIN attempt AS a ON a.job = m.id WHERE a.ended_at IS NOT NULL
        UNION ALL SELECT ended_at, id, 'cancel', state, 0, '{"by": "seed-key-1"}' FROM made WHERE state = 'cancelled' AND attempts = 0
    ) AS told ORDER BY at;

INSERT INTO log_line (job, attempt, seq, at, line)
    SELECT m.id, m.attempts, seq, coalesce(m.ended_at, now()), 'frame=' || seq * 250 || ' fps=48 q=28.0 size=' || seq * 512 || 'kB time=00:00:0' || seq || '.00'
    FROM made AS m CROSS JOIN generate_series(1, 8) AS seq WHERE m.state IN ('failed', 'running', 'cancelling');

-- As little as is taken for a JPEG: a real one has some thousand bytes, which lie beside the table and are read when one is shown.
INSERT INTO thumbnail (job, attempt, at, jpeg)
    SELECT id, attempts, ended_at, decode('ffd8ffe000044a46ffc000110800b4014003ffd9', 'hex') FROM made WHERE state = 'completed';

INSERT INTO seeded SELECT id FROM made;
