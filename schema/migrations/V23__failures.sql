-- What failed, by cause and time, and the texts by which jobs are found.

-- Attempts that failed or whose worker was lost, and jobs that became dead letters by something else, such as their deadline. A row is written
-- in the transaction that ends the attempt or the job, never changed, and goes with the job. In a table of its own: with the time of
-- their end in an index, attempts could no longer be ended in place, and each that succeeds would cost more.
CREATE TABLE failure (
    at          timestamptz NOT NULL DEFAULT now(),
    job         uuid NOT NULL,
    -- The job's.
    number      bigint NOT NULL,
    -- Null where no attempt failed.
    attempt     integer,
    tenant      text,
    cause       text NOT NULL,
    -- Whether another attempt was to follow.
    retried boolean NOT NULL,
    -- Whether the job became a dead letter by it.
    dead        boolean NOT NULL
);
-- Counted without a look at the rows.
CREATE INDEX failure_at ON failure (at) INCLUDE (tenant, cause, attempt, retried, dead);
-- The jobs that failed so, newest first.
CREATE INDEX failure_cause ON failure (cause, number);
CREATE INDEX failure_job ON failure (job);
-- Dead letters of a cause, newest first.
CREATE INDEX job_dead_cause ON job (last_cause, number) WHERE state = 'failed' AND part_of IS NULL;

-- Those that are on record. What was sent round again since is taken for retried, for nobody knows when.
INSERT INTO failure (at, job, number, attempt, tenant, cause, retried, dead)
    SELECT a.ended_at, job.id, job.number, a.attempt, job.tenant,
           CASE a.outcome WHEN 'lapsed' THEN 'worker_lost' ELSE coalesce(a.failure ->> 'cause', 'unknown') END,
           a.attempt < job.attempt OR job.state IN ('blocked', 'delayed', 'queued', 'running'),
           a.attempt = job.attempt AND job.state = 'failed' AND job.part_of IS NULL
    FROM attempt AS a JOIN job ON job.id = a.job
    WHERE a.ended_at IS NOT NULL AND (a.outcome = 'failed' OR a.outcome = 'lapsed' AND job.state <> 'completed'
                                      OR a.outcome = 'lapsed' AND a.attempt < job.attempt)
    ORDER BY a.ended_at;
INSERT INTO failure (at, job, number, tenant, cause, retried, dead)
    SELECT coalesce(ended_at, state_since), id, number, tenant, coalesce(last_cause, 'unknown'), false, true
    FROM job
    WHERE state = 'failed' AND part_of IS NULL
          AND NOT EXISTS (SELECT FROM failure WHERE failure.job = job.id AND failure.attempt = job.attempt AND failure.dead)
    ORDER BY ended_at;

-- What a job is found by: its addresses without what may be secret in them, and its labels, in small letters. One narrow row a job, written
-- as it is recorded and never changed, so that ten thousands are looked through in the time that some hundred of the wide ones would
-- take. Not of chunks' jobs, which no list has.
CREATE TABLE job_text (
    number bigint PRIMARY KEY,
    tenant text,
    text   text COLLATE "C" NOT NULL
);

-- Of the jobs that are there. From an address at least what `ffpool_schema::location::redact` takes out is taken out: who may not read a
-- secret must not guess it letter by letter.
CREATE FUNCTION found_by(address text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(address, '://') = 0 THEN address
                WHEN strpos(address, '@') = 0 AND strpos(lower(address), 'rtmp') = 0 THEN split_part(split_part(address, '?', 1), '#', 1)
                ELSE regexp_replace(regexp_replace(split_part(split_part(address, '?', 1), '#', 1),
                         '://[^/]*@', '://', 'g'), '(rtmps?://[^/]*/[^/]*/).*$', '\1', 'i') END
$$;
INSERT INTO job_text (number, tenant, text)
    SELECT number, tenant, lower(text) FROM (
        SELECT number, tenant, concat_ws(E'\n', found_by(spec ->> 'input'), found_by(spec ->> 'output'),
            CASE WHEN jsonb_typeof(spec -> 'outputs') = 'array' THEN
                (SELECT string_agg(found_by(output ->> 'url'), E'\n') FROM jsonb_array_elements(spec -> 'outputs') AS output) END,
            CASE WHEN labels <> '{}' THEN
                (SELECT string_agg(key || ':' || value, E'\n') FROM jsonb_each_text(labels)) END) AS text
        FROM job WHERE part_of IS NULL ORDER BY number OFFSET 0) AS found
    WHERE text <> '';
DROP FUNCTION found_by(text);
CREATE INDEX job_text_tenant ON job_text (tenant, number) WHERE tenant IS NOT NULL;
