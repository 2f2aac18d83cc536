-- Long encodes as chunks: jobs of the ledger's own, each of which makes one for another job.

ALTER TABLE job
    -- The job whose chunk it makes.
    ADD COLUMN part_of uuid,
    -- Chunks of the job, once it has been split.
    ADD COLUMN chunks integer,
    -- How often it has been split since it was last sent round.
    ADD COLUMN splits integer NOT NULL DEFAULT 0;
CREATE INDEX job_part_of ON job (part_of) WHERE part_of IS NOT NULL;
-- Chunks that are still to be made, for whoever looks after those whose job has ended.
CREATE INDEX job_open_part ON job (part_of)
    WHERE part_of IS NOT NULL AND state IN ('blocked', 'delayed', 'queued', 'running');
