-- What joins jobs: dependencies, chunks, the jobs that workers run, what tenants store. Afterwards the ledger is looked after as
-- it would have been over time.

-- One job in five thousand is made in eight chunks, tenants' first; the other blocked ones wait for a job.
CREATE TEMP TABLE whole AS
    SELECT id, number, tenant, scenario FROM job WHERE state = 'blocked' AND part_of IS NULL AND id IN (SELECT id FROM seeded)
    ORDER BY tenant IS NULL, number LIMIT greatest(pg_temp.setting('jobs') / 5000, 1);
CREATE TEMP TABLE part AS
    SELECT id, row_number() OVER (ORDER BY number) - 1 AS at FROM (
        SELECT id, number FROM job WHERE state = 'completed' AND callback_url IS NULL AND tenant IS NULL AND id IN (SELECT id FROM seeded)
        ORDER BY number DESC LIMIT (SELECT 4 * count(*) FROM whole)) AS done;
INSERT INTO part SELECT id, (SELECT 4 * count(*) FROM whole) + row_number() OVER (ORDER BY number) - 1 FROM (
        SELECT id, number FROM job WHERE state = 'queued' AND callback_url IS NULL AND tenant IS NULL AND id IN (SELECT id FROM seeded)
        ORDER BY number DESC LIMIT (SELECT 4 * count(*) FROM whole)) AS open;
UPDATE job SET part_of = w.id, tenant = w.tenant FROM part
    JOIN (SELECT id, tenant, row_number() OVER (ORDER BY number) - 1 AS at FROM whole) AS w ON w.at = part.at % (SELECT count(*) FROM whole)
    WHERE job.id = part.id;
-- What a chunk took is booked to the job whose chunk it is.
UPDATE attempt SET booked_hour = NULL FROM part WHERE attempt.job = part.id AND attempt.ended_at IS NOT NULL;
-- A worker looked at the source and split the job.
INSERT INTO attempt (job, attempt, worker, incarnation, started_at, ended_at, outcome)
    SELECT job.id, 1, worker.id, worker.incarnation, job.created_at, least(job.created_at + interval '2 seconds', now()), 'split'
    FROM whole JOIN job ON job.id = whole.id JOIN worker ON worker.id = pg_temp.worker_name(1);
INSERT INTO event (at, job, kind, state, attempt, detail)
    SELECT at, whole.id, kind, state, 1, jsonb_build_object('worker', attempt.worker)
    FROM whole JOIN attempt ON attempt.job = whole.id
    CROSS JOIN LATERAL (VALUES (attempt.started_at, 'claim', 'running'), (attempt.ended_at, 'split', 'blocked')) AS told (at, kind, state);
UPDATE job SET chunks = 8, splits = 1, attempt = 1, owner_worker = attempt.worker, owner_incarnation = attempt.incarnation,
               started_at = attempt.started_at
    FROM whole JOIN attempt ON attempt.job = whole.id WHERE job.id = whole.id;
INSERT INTO dependency (child, parent) SELECT part_of, id FROM job WHERE part_of IS NOT NULL AND part_of IN (SELECT id FROM whole);
INSERT INTO dependency (child, parent)
    SELECT child.id, parent.id
    FROM (SELECT id, tenant, row_number() OVER (PARTITION BY tenant ORDER BY number) AS at FROM job
          WHERE state = 'blocked' AND chunks IS NULL AND id IN (SELECT id FROM seeded)) AS child
    JOIN (SELECT id, tenant, row_number() OVER (PARTITION BY tenant ORDER BY number) AS at FROM job
          WHERE state = 'queued' AND part_of IS NULL AND id IN (SELECT id FROM seeded)) AS parent
        ON parent.tenant IS NOT DISTINCT FROM child.tenant AND parent.at = child.at;

UPDATE worker SET running = held.ids, capacity = jsonb_set(capacity, '{used}', to_jsonb(cardinality(held.ids)))
    FROM (SELECT owner_worker, array_agg(id) AS ids FROM job WHERE state IN ('running', 'cancelling') GROUP BY owner_worker) AS held
    WHERE worker.id = held.owner_worker AND worker.id LIKE 'seed-%';
UPDATE tenant SET stored_bytes = coalesce((SELECT sum(stored_bytes) FROM job WHERE job.tenant = tenant.name), 0) WHERE name LIKE 'seed-%';
DELETE FROM stored_change WHERE tenant LIKE 'seed-%';
-- The triggers made one for each end that somebody wanted to know: they were told.
WITH told AS (UPDATE callback SET done_at = created_at, outcome = 'delivered', tries = 1 WHERE done_at IS NULL AND job IN (SELECT id FROM seeded) RETURNING id)
    INSERT INTO callback_try (callback, try, took_ms, status) SELECT id, 1, 40, 204 FROM told;
