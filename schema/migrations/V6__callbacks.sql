-- Callbacks: what is to be told to a job's callback_url, and what became of it.

-- Where the job's end is told; null for nearly all. Also kept of a job that is rejected, whose spec is not.
ALTER TABLE job ADD COLUMN callback_url text;

-- One row for each end of a job: a job that is sent round again ends again.
CREATE TABLE callback (
    -- What the receiver knows a repeat by.
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    job        uuid NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    state      text NOT NULL,
    url        text NOT NULL,
    tenant     text,
    -- When the job ended.
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When it is sent next. Whoever sets out to send it moves it ahead, so that somebody else does it if that one dies.
    due        timestamptz NOT NULL DEFAULT now(),
    tries      integer NOT NULL DEFAULT 0,
    -- delivered, given_up
    outcome    text CHECK (outcome IN ('delivered', 'given_up')),
    done_at    timestamptz
);
CREATE INDEX callback_due ON callback (due) WHERE done_at IS NULL;
CREATE INDEX callback_job ON callback (job);

CREATE TABLE callback_try (
    callback uuid NOT NULL REFERENCES callback (id) ON DELETE CASCADE,
    try      integer NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    took_ms  bigint NOT NULL,
    -- The HTTP status; null when there was no answer.
    status   integer,
    error    text,
    PRIMARY KEY (callback, try)
);

-- A trigger, because a job ends in more than one statement, and none may forget it: the row stands in the transaction
-- that ends the job.
CREATE FUNCTION note_callback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO callback (job, state, url, tenant) VALUES (NEW.id, NEW.state, NEW.callback_url, NEW.tenant);
    RETURN NULL;
END
$$;
CREATE TRIGGER job_recorded_at_its_end AFTER INSERT ON job FOR EACH ROW
    WHEN (NEW.callback_url IS NOT NULL AND NEW.state IN ('completed', 'failed', 'cancelled', 'rejected'))
    EXECUTE FUNCTION note_callback();
CREATE TRIGGER job_ended AFTER UPDATE OF state ON job FOR EACH ROW
    WHEN (NEW.callback_url IS NOT NULL AND NEW.state IN ('completed', 'failed', 'cancelled', 'rejected')
          AND OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION note_callback();
