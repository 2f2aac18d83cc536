-- Pausing, deadlines, dependencies, placing alone, queues that are paused, and kinds of dead letters.

ALTER TABLE job
    -- Whether somebody has paused it.
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    -- Since when its tool is frozen: by a pause, or to make room for a live job. From its owner's heartbeats.
    ADD COLUMN frozen_since timestamptz,
    ADD COLUMN deadline timestamptz,
    -- Memory of the next attempt in MiB, when the last ran out of it.
    ADD COLUMN raised_memory_mb bigint,
    -- Whether the next attempt uses software because the device failed.
    ADD COLUMN fell_back boolean NOT NULL DEFAULT false,
    -- Names the kind of a dead letter: its cause and evidence, numbers and paths left out.
    ADD COLUMN dead_fingerprint text;
CREATE INDEX job_deadline ON job (deadline)
    WHERE deadline IS NOT NULL AND state IN ('blocked', 'delayed', 'queued', 'running');
CREATE INDEX job_dead_fingerprint ON job (dead_fingerprint) WHERE state = 'failed';

-- Who waits for whom. A parent need not be recorded yet.
CREATE TABLE dependency (
    child  uuid NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    parent uuid NOT NULL,
    PRIMARY KEY (child, parent)
);
CREATE INDEX dependency_parent ON dependency (parent);

-- Queues from which nothing is granted.
CREATE TABLE queue_pause (
    queue  text PRIMARY KEY CHECK (queue IN ('live', 'default', 'batch')),
    since  timestamptz NOT NULL DEFAULT now(),
    by     text NOT NULL,
    reason text
);
