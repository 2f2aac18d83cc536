-- A small picture of what a job made, for whoever looks at it. In a table of its own: no list, count or claim reads past it.

CREATE TABLE thumbnail (
    job     uuid PRIMARY KEY,
    -- The attempt that reported it.
    attempt integer NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    -- As ffpool_schema::thumbnail lets it be.
    jpeg    bytea NOT NULL CHECK (octet_length(jpeg) <= 32768)
);
-- A JPEG gets no smaller by another packing.
ALTER TABLE thumbnail ALTER COLUMN jpeg SET STORAGE EXTERNAL;
