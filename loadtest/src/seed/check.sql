-- What may not be in a ledger, each with how often it is there.

SELECT 'jobs ended and have no end, or have one and did not' AS what, count(*) FROM job
    WHERE (state IN ('completed', 'failed', 'cancelled', 'rejected')) <> (ended_at IS NOT NULL)
UNION ALL SELECT 'jobs ended before they began, or began before they were recorded', count(*) FROM job
    WHERE ended_at < started_at OR started_at < created_at OR ended_at < created_at
UNION ALL SELECT 'jobs lack attempts or have too many', count(*) FROM job
    WHERE attempt <> (SELECT count(*) FROM attempt WHERE attempt.job = job.id)
UNION ALL SELECT 'attempts run whose job does not, or the reverse', count(*) FROM job
    JOIN attempt ON attempt.job = job.id AND attempt.attempt = job.attempt
    WHERE (job.state IN ('running', 'cancelling')) <> (attempt.ended_at IS NULL)
UNION ALL SELECT 'running jobs have no owner or no lease', count(*) FROM job
    WHERE state IN ('running', 'cancelling') AND (owner_worker IS NULL OR owner_incarnation IS NULL OR lease_until IS NULL)
UNION ALL SELECT 'running jobs are not among those of their worker', count(*) FROM job
    JOIN worker ON worker.id = job.owner_worker
    WHERE job.state IN ('running', 'cancelling') AND NOT job.id = ANY (worker.running)
UNION ALL SELECT 'workers run more than they have slots', count(*) FROM worker
    WHERE cardinality(running) > (capacity ->> 'slots')::integer
UNION ALL SELECT 'blocked jobs wait for nothing', count(*) FROM job
    WHERE state = 'blocked'
          AND NOT EXISTS (SELECT FROM dependency JOIN job AS parent ON parent.id = dependency.parent
                          WHERE dependency.child = job.id AND parent.state <> 'completed')
UNION ALL SELECT 'dead letters have no kind', count(*) FROM job WHERE state = 'failed' AND (dead_fingerprint IS NULL OR failure IS NULL)
UNION ALL SELECT 'completed jobs have no manifest', count(*) FROM job WHERE state = 'completed' AND manifest IS NULL
UNION ALL SELECT 'jobs have no history', count(*) FROM job
    WHERE NOT EXISTS (SELECT FROM event WHERE event.job = job.id AND event.kind = 'recorded')
UNION ALL SELECT 'tenants store something else than their jobs', count(*) FROM tenant
    WHERE stored_bytes <> coalesce((SELECT sum(stored_bytes) FROM job WHERE job.tenant = tenant.name), 0)
          - coalesce((SELECT sum(bytes) FROM stored_change WHERE stored_change.tenant = tenant.name), 0)
