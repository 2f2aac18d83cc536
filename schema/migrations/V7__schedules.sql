-- Recurring jobs.

CREATE TABLE schedule (
    -- Part of the ids of its jobs: one that is made anew under an old name makes new jobs.
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL UNIQUE,
    cron       text NOT NULL,
    -- IANA time zone.
    zone       text NOT NULL,
    -- The job's body, with placeholders such as {date} in its texts.
    job        jsonb NOT NULL,
    missed     text NOT NULL CHECK (missed IN ('skip', 'one')),
    overlap    text NOT NULL CHECK (overlap IN ('skip', 'allow')),
    paused     boolean NOT NULL DEFAULT false,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The next due time; null when there is none any more.
    next_due   timestamptz,
    -- The last job that it made.
    last_job   uuid
);
CREATE INDEX schedule_due ON schedule (next_due) WHERE next_due IS NOT NULL AND NOT paused;

-- What became of each due time.
CREATE TABLE schedule_run (
    schedule uuid NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    due      timestamptz NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    -- submitted, skipped (the last job still ran), missed, refused (the job was not valid)
    outcome  text NOT NULL CHECK (outcome IN ('submitted', 'skipped', 'missed', 'refused')),
    job      uuid,
    detail   text,
    PRIMARY KEY (schedule, due)
);
