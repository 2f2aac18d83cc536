-- Lists and counts that do not grow slow with the number of jobs.

ALTER TABLE job
    -- Slots that it takes of a worker that has as many. Null for one that was recorded before this column: `spec` says it.
    ADD COLUMN units integer;

-- What waits, counted without a look at the rows. Only columns that change with the state, or hardly ever: renewing a lease
-- still touches no index.
CREATE INDEX job_demand ON job (state, queue, priority, pool, tenant)
    INCLUDE (scenario, units, part_of, paused, wants_worker, state_since, created_at)
    WHERE state IN ('blocked', 'delayed', 'queued');
-- Empty once what was recorded before `units` waits no more.
CREATE INDEX job_unsized ON job (number) WHERE units IS NULL AND state IN ('blocked', 'delayed', 'queued');

-- What a worker runs, or ran last.
CREATE INDEX job_worker ON job (owner_worker, number) WHERE owner_worker IS NOT NULL;

-- Kinds of dead letters, counted and listed, newest first, without a look at those of other kinds.
CREATE INDEX job_dead_kind ON job (dead_fingerprint, number) INCLUDE (tenant, part_of, ended_at, state_since)
    WHERE state = 'failed';
DROP INDEX job_dead_fingerprint;

-- How long jobs took: the last of each scenario.
CREATE INDEX job_ran ON job (scenario, (part_of IS NULL), ended_at) WHERE state = 'completed' AND chunks IS NULL;

-- The few that are being ended, among all that run.
CREATE INDEX job_cancelling ON job (number) WHERE state = 'cancelling';

-- What ended lately, counted without a look at the rows, by the indexes that find what may be forgotten.
DROP INDEX job_forgettable, job_forgettable_dead, job_ended;
CREATE INDEX job_forgettable ON job (ended_at) INCLUDE (state, tenant)
    WHERE part_of IS NULL AND state IN ('completed', 'cancelled', 'rejected');
CREATE INDEX job_forgettable_dead ON job (ended_at) INCLUDE (tenant)
    WHERE part_of IS NULL AND state = 'failed';
