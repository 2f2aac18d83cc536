-- Jobs that the worker with their delivery could not run are offered to one that can.

ALTER TABLE job
    -- Whether a worker is looked for; only while it is delayed.
    ADD COLUMN wants_worker boolean NOT NULL DEFAULT false,
    -- To which worker it has been offered.
    ADD COLUMN offered_worker text,
    ADD COLUMN offered_incarnation uuid;
CREATE INDEX job_wants_worker ON job (number) WHERE wants_worker;
