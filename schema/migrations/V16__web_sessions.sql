-- Sessions of the dashboard, and an index for what ended lately.

-- Somebody who showed a key in a browser. The session's secret is never stored.
CREATE TABLE web_session (
    -- sha256 of the secret.
    hash       bytea PRIMARY KEY,
    -- The key, and its hash as it was: a session ends with the text of its key, also where the key's row is used again.
    key        uuid NOT NULL,
    key_hash   bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- To a minute.
    used_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX web_session_key ON web_session (key, created_at);

-- Small, and enough: jobs end in about the order in which their rows are written.
CREATE INDEX job_ended ON job USING brin (ended_at) WITH (pages_per_range = 32, autosummarize = on);
