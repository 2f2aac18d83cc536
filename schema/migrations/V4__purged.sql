-- Jobs that somebody has done away with: whoever waits for one is told, instead of waiting for ever.
CREATE TABLE purged (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);
