-- Live jobs that somebody wants to end with what they have.

ALTER TABLE job ADD COLUMN finishing boolean NOT NULL DEFAULT false;
