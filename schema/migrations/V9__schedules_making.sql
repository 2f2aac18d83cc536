-- A due time whose job is about to be recorded: whoever comes after a crash knows which job to look for.

ALTER TABLE schedule ADD COLUMN making timestamptz;
