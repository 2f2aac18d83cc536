-- How far each attempt was while it ran, so that a page that is opened late shows all of it. One row an attempt, of bounded length:
-- dispatcher/src/ledger/curves.rs.

CREATE TABLE progress_curve (
    job       uuid    NOT NULL,
    attempt   integer NOT NULL,
    -- Seconds between two points at least; twice as many whenever there are too many points.
    step_secs real    NOT NULL,
    -- Of each point: seconds since the attempt began, percent of the work, frames per second. Null where nobody can tell.
    at_secs   real[]  NOT NULL,
    percent   real[]  NOT NULL,
    fps       real[]  NOT NULL,
    PRIMARY KEY (job, attempt)
)
-- It is rewritten with every point.
WITH (fillfactor = 70);
