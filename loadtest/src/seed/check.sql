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
UNION ALL SELECT 'attempts failed and are no failures, or the reverse', abs(
        (SELECT count(*) FROM attempt WHERE outcome IN ('failed', 'lapsed')) - (SELECT count(*) FROM failure WHERE attempt IS NOT NULL))
UNION ALL SELECT 'jobs are found by no text', count(*) FROM job
    WHERE spec IS NOT NULL AND part_of IS NULL AND NOT EXISTS (SELECT FROM job_text WHERE job_text.number = job.number)
UNION ALL SELECT 'completed jobs have no manifest', count(*) FROM job WHERE state = 'completed' AND manifest IS NULL
UNION ALL SELECT 'jobs have no history', count(*) FROM job
    WHERE NOT EXISTS (SELECT FROM event WHERE event.job = job.id AND event.kind = 'recorded')
UNION ALL SELECT 'tenants store something else than their jobs', count(*) FROM tenant
    WHERE stored_bytes <> coalesce((SELECT sum(stored_bytes) FROM job WHERE job.tenant = tenant.name), 0)
          - coalesce((SELECT sum(bytes) FROM stored_change WHERE stored_change.tenant = tenant.name), 0)
UNION ALL SELECT 'sums of costs differ from what attempts used', count(*) FROM (
    SELECT span, at, tenant, queue, scenario, currency, sum(jobs) AS jobs, sum(attempts) AS attempts, sum(measured) AS measured,
           sum(metered) AS metered, sum(priced) AS priced, sum(cost) AS cost, sum(cpu_ms) AS cpu_ms, sum(byte_ms) AS byte_ms,
           sum(wall_ms) AS wall_ms, sum(joules) AS joules
    FROM (SELECT * FROM cost_sum
          UNION ALL SELECT span, date_trunc(span, at, 'UTC'), tenant, queue, scenario, currency, jobs, attempts, measured, metered,
                           priced, cost, cpu_ms, byte_ms, wall_ms, joules
              FROM cost_change CROSS JOIN (VALUES ('hour'), ('day')) AS spans (span)
          UNION ALL SELECT span, date_trunc(span, whole.created_at, 'UTC'), coalesce(whole.tenant, ''), whole.queue, whole.scenario,
                           CASE WHEN a.cost IS NULL THEN '' ELSE coalesce(a.currency, '') END,
                           -(maker.id = whole.id AND row_number() OVER (PARTITION BY a.job, span ORDER BY a.attempt) = 1)::integer, -1,
                           -(usage IS NOT NULL)::integer, -(usage ->> 'energy_joules' IS NOT NULL)::integer,
                           -(usage IS NOT NULL AND a.cost IS NOT NULL)::integer, -coalesce(a.cost::numeric, 0),
                           -coalesce((usage ->> 'cpu_ms')::numeric, 0),
                           -coalesce((usage ->> 'peak_memory_bytes')::numeric * (usage ->> 'wall_ms')::numeric, 0),
                           -coalesce((usage ->> 'wall_ms')::numeric, 0), -coalesce((usage ->> 'energy_joules')::numeric, 0)
              FROM attempt AS a JOIN job AS maker ON maker.id = a.job
              JOIN job AS whole ON whole.id = coalesce(maker.part_of, maker.id)
              CROSS JOIN (VALUES ('hour'), ('day')) AS spans (span) WHERE a.ended_at IS NOT NULL) AS told
    GROUP BY 1, 2, 3, 4, 5, 6) AS difference
    WHERE (jobs, attempts, measured, metered, priced, cost, cpu_ms, byte_ms, wall_ms, joules) <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
